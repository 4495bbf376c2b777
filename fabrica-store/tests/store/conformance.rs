//! Every case of the suite, by adapter.

mod postgres {
    use fabrica_core::testing::store_conformance;

    use crate::support::with_postgres;

    macro_rules! conformance {
        ($($case:ident),*) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                with_postgres(|store, _| store_conformance::$case(store)).await;
            }
        )*};
    }

    fabrica_core::for_each_store_case!(conformance);
}

mod sqlite {
    use fabrica_core::testing::store_conformance;

    use crate::support::with_sqlite;

    macro_rules! conformance {
        ($($case:ident),*) => {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                with_sqlite(|store, _| store_conformance::$case(store)).await;
            }
        )*};
    }

    fabrica_core::for_each_store_case!(conformance);
}
