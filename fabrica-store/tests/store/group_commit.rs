//! What many sessions record at the same time is written together; none of them may notice.

use std::sync::Arc;
use std::time::Duration;

use fabrica_core::ids::{Fence, MessageId, SessionId, WorkerId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::Store;
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::{ClaimLimits, ClaimRequest, EventRecord};
use fabrica_core::protocol::{TranscriptEntry, Usage};
use fabrica_store::PostgresStore;
use futures::future::join_all;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::support::{ids, new_session, with_database, with_postgres, with_sqlite};

const PATIENCE: Duration = Duration::from_mins(1);

fn message(text: &str) -> NewMessage {
    NewMessage {
        id: ids().message(),
        kind: MessageKind::Progress,
        content: MessageContent::text(text),
    }
}

fn event(number: u64) -> EventRecord {
    EventRecord {
        event: number,
        messages: vec![message(&format!("event {number}"))],
        ..EventRecord::default()
    }
}

fn claim_of(session: SessionId) -> ClaimRequest {
    ClaimRequest {
        worker: WorkerId::new("worker"),
        lease: Duration::from_mins(10),
        limit: 1,
        takeovers: 1,
        only: Some(session),
        limits: ClaimLimits::default(),
    }
}

/// Sessions that run.
async fn running(store: &dyn Store, number: usize) -> Vec<Fence> {
    let mut fences = Vec::new();
    for _ in 0..number {
        let session = new_session();
        let request = claim_of(session.id);
        store.create_session(session).await.unwrap();
        fences.push(store.claim(&request).await.unwrap()[0].fence());
    }
    fences
}

/// Asserts that the session has its first message and then one of each event, in order.
async fn assert_recorded(store: &dyn Store, fence: Fence, events: u64) {
    let messages = store.messages(fence.session, 0, 100_000).await.unwrap();
    let seen: Vec<_> = messages[1..]
        .iter()
        .map(|message| (message.sequence, message.content.message.clone()))
        .collect();
    let expected: Vec<_> = (1..=events)
        .map(|number| (number + 1, format!("event {number}")))
        .collect();
    assert_eq!(seen, expected);
}

/// Records an event as a runner does: again, as long as the store cannot say what became of it. Returns how often.
async fn record_until_acknowledged(store: &dyn Store, fence: Fence, event: EventRecord) -> u32 {
    let mut repeated = 0;
    loop {
        match store.record(fence, vec![event.clone()]).await {
            Ok(recorded) => {
                assert!(recorded.acknowledged >= event.event);
                return repeated;
            }
            Err(error) if error.retryable() => repeated += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

async fn sixty_four_at_once(store: Arc<dyn Store>) {
    const EVENTS: u64 = 15;
    let fences = running(&*store, 64).await;
    let writers = fences.iter().map(|fence| {
        let (store, fence) = (store.clone(), *fence);
        tokio::spawn(async move {
            for number in 1..=EVENTS {
                let recorded = store.record(fence, vec![event(number)]).await.unwrap();
                assert_eq!(recorded.acknowledged, number);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.unwrap();
    }
    for fence in fences {
        assert_recorded(&*store, fence, EVENTS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_sessions_at_once_have_no_gaps_in_postgres() {
    with_postgres(|store, _| sixty_four_at_once(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_sessions_at_once_have_no_gaps_in_sqlite() {
    with_sqlite(|store, _| sixty_four_at_once(store)).await;
}

/// One repeats the id of a message, one leaves out an event, one has lost its session, one delivers again.
async fn bad_beside_good(store: Arc<dyn Store>) {
    let fences = running(&*store, 24).await;
    let taken: MessageId = {
        let first = event(1);
        let id = first.messages[0].id;
        join_all(fences.iter().map(|fence| {
            store.record(
                *fence,
                vec![if *fence == fences[0] {
                    first.clone()
                } else {
                    event(1)
                }],
            )
        }))
        .await
        .into_iter()
        .for_each(|outcome| assert_eq!(outcome.unwrap().acknowledged, 1));
        id
    };
    let mut repeated = event(2);
    repeated.messages[0].id = taken;
    let stale = Fence {
        lease: fabrica_core::ids::LeaseNumber::new(0),
        ..fences[7]
    };
    let deliveries = fences.iter().enumerate().map(|(place, fence)| {
        let (fence, events) = match place {
            5 => (*fence, vec![repeated.clone()]),
            6 => (*fence, vec![event(3)]),
            7 => (stale, vec![event(2)]),
            8 => (*fence, vec![event(1), event(2)]),
            _ => (*fence, vec![event(2)]),
        };
        store.record(fence, events)
    });
    for (place, outcome) in join_all(deliveries).await.into_iter().enumerate() {
        match (place, outcome) {
            (5, Err(StoreError::Database { .. }))
            | (6, Err(StoreError::EventGap { expected: 2, .. }))
            | (7, Err(StoreError::Fenced(_))) => {}
            (5..=7, outcome) => panic!("{place}: {outcome:?}"),
            (_, outcome) => assert_eq!(outcome.unwrap().acknowledged, 2),
        }
    }
    for (place, fence) in fences.into_iter().enumerate() {
        assert_recorded(&*store, fence, if (5..=7).contains(&place) { 1 } else { 2 }).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_delivery_fails_alone_in_postgres() {
    with_postgres(|store, _| bad_beside_good(store)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_delivery_fails_alone_in_sqlite() {
    with_sqlite(|store, _| bad_beside_good(store)).await;
}

/// The deferred trigger runs at `COMMIT`, and ends its own connection there, for the first few messages of its kind.
const CUT_AT_COMMIT: &str = "
    create sequence cuts;
    create function cut() returns trigger language plpgsql as $$
    begin
        if nextval('cuts') <= 5 then perform pg_terminate_backend(pg_backend_pid()); end if;
        return null;
    end
    $$;
    create constraint trigger cut after insert on messages deferrable initially deferred
        for each row when (new.content ->> 'message' = 'event 2') execute function cut()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_at_commit_loses_nothing_and_doubles_nothing() {
    const EVENTS: u64 = 4;
    with_postgres(|store, url| async move {
        let fences = running(&*store, 16).await;
        let mut other = PgConnection::connect(&url).await.unwrap();
        other.execute(CUT_AT_COMMIT).await.unwrap();
        let writers = fences.iter().map(|fence| {
            let (store, fence) = (store.clone(), *fence);
            tokio::spawn(async move {
                let mut repeated = 0;
                for number in 1..=EVENTS {
                    repeated += record_until_acknowledged(&*store, fence, event(number)).await;
                }
                repeated
            })
        });
        let repeated: u32 = join_all(writers).await.into_iter().map(Result::unwrap).sum();
        assert!(
            repeated > 0,
            "those in flight are told that the store was unavailable"
        );
        for fence in fences {
            assert_recorded(&*store, fence, EVENTS).await;
        }
    })
    .await;
}

/// At any moment, also between the commit and its acknowledgement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_cut_again_and_again_lose_nothing_and_double_nothing() {
    const CUTS: u32 = 40;
    with_postgres(|store, url| async move {
        let fences = running(&*store, 16).await;
        let cutting = tokio::spawn(async move {
            let mut other = PgConnection::connect(&url).await.unwrap();
            let mut cut = 0;
            while cut < CUTS {
                let found = other
                    .execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity
                         where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'",
                    )
                    .await
                    .unwrap();
                cut += u32::try_from(found.rows_affected()).unwrap();
            }
        });
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let writers: Vec<_> = fences
            .iter()
            .map(|fence| {
                let (store, fence, done) = (store.clone(), *fence, done.clone());
                tokio::spawn(async move {
                    let mut number = 0;
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        number += 1;
                        record_until_acknowledged(&*store, fence, event(number)).await;
                    }
                    number
                })
            })
            .collect();
        tokio::time::timeout(PATIENCE, cutting).await.unwrap().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        for (fence, writer) in fences.into_iter().zip(writers) {
            assert_recorded(&*store, fence, writer.await.unwrap()).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_somebody_locked_holds_up_nobody_else() {
    with_postgres(|store, url| async move {
        let fences = running(&*store, 16).await;
        let mut other = PgConnection::connect(&url).await.unwrap();
        let mut locked = other.begin().await.unwrap();
        let id = *fences[0].session.as_uuid();
        locked
            .execute(AssertSqlSafe(format!(
                "select 1 from sessions where id = '{id}' for update"
            )))
            .await
            .unwrap();
        let waiting = {
            let (store, fence) = (store.clone(), fences[0]);
            tokio::spawn(async move { store.record(fence, vec![event(1)]).await })
        };
        for number in 1..=3 {
            let others = join_all(
                fences[1..]
                    .iter()
                    .map(|fence| store.record(*fence, vec![event(number)])),
            );
            for outcome in tokio::time::timeout(PATIENCE, others).await.unwrap() {
                assert_eq!(outcome.unwrap().acknowledged, number);
            }
        }
        assert!(!waiting.is_finished(), "it waits for the lock");
        locked.rollback().await.unwrap();
        let recorded = tokio::time::timeout(PATIENCE, waiting)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert_eq!(recorded.acknowledged, 1);
        assert_recorded(&*store, fences[0], 1).await;
    })
    .await;
}

/// Many submissions at once, among them some of the same key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submissions_at_once_create_one_session_a_key() {
    with_postgres(|store, _| async move {
        let submissions = (0..60).map(|number| {
            let (store, mut session) = (store.clone(), new_session());
            session.idempotency_key = (number % 2 == 0).then(|| format!("key {}", number % 10));
            tokio::spawn(async move { (session.id, store.create_session(session).await.unwrap()) })
        });
        let mut created = std::collections::HashSet::new();
        for outcome in join_all(submissions).await {
            created.insert(outcome.unwrap().1.session());
        }
        assert_eq!(
            created.len(),
            30 + 5,
            "one each without a key, and one for each of five keys"
        );
        for id in created {
            assert_eq!(store.specs(id).await.unwrap().len(), 1);
            assert_eq!(store.messages(id, 0, 10).await.unwrap().len(), 1);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_dropped_leaves_no_connection_behind() {
    with_database(|url| async move {
        let store = PostgresStore::open(&url).await.unwrap();
        let fences = running(&store, 8).await;
        for fence in fences {
            store.record(fence, vec![event(1)]).await.unwrap();
        }
        drop(store);
        let mut other = PgConnection::connect(&url).await.unwrap();
        let gone = async {
            loop {
                let left: i64 = sqlx::query_scalar(
                    "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
                     and backend_type = 'client backend'",
                )
                .fetch_one(&mut other)
                .await
                .unwrap();
                if left == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    })
    .await;
}

/// What is in the events of each session, one bit for each kind, and so which statements write them.
const KINDS: [usize; 6] = [0b1111, 0b0001, 0b0010, 0b0100, 0b0110, 0b0111];

/// What one of some sessions records in one event: every mixture of what there is.
fn mixture(place: usize, number: u64) -> EventRecord {
    let label = format!("{place}: {number}");
    let kinds = KINDS[usize::try_from(number).unwrap() % KINDS.len()];
    let brings = |bit: usize| place & kinds & bit != 0;
    EventRecord {
        event: number,
        messages: if brings(1) { vec![message(&label)] } else { vec![] },
        transcript: brings(2).then(|| {
            let entry = TranscriptEntry {
                kind: format!("kind of {place}"),
                parent: Some(format!("parent of {place}")),
                summary: label.clone(),
                detail: serde_json::Map::from_iter([("label".into(), label.clone().into())]),
            };
            (chrono::DateTime::UNIX_EPOCH, entry)
        }),
        usage: brings(4).then(|| Usage {
            input_tokens: place as u64,
            turns: 1,
            ..Usage::default()
        }),
        result: brings(8).then(|| serde_json::json!(label)),
        ..EventRecord::default()
    }
}

/// Sixteen sessions record different things, together and one after the other; each gets its own.
async fn each_session_gets_its_own(store: &dyn Store) {
    const EVENTS: u64 = 2 * KINDS.len() as u64;
    let fences = running(store, 16).await;
    for number in 1..=EVENTS {
        let mut records: Vec<_> = fences
            .iter()
            .enumerate()
            .map(|(place, fence)| store.record(*fence, vec![mixture(place, number)]))
            .collect();
        let together = if number > EVENTS / 2 {
            records.split_off(0)
        } else {
            vec![]
        };
        for recorded in join_all(together).await {
            assert_eq!(recorded.unwrap().acknowledged, number);
        }
        for record in records {
            assert_eq!(record.await.unwrap().acknowledged, number);
        }
    }
    store
        .release_leases(&WorkerId::new("worker"), None)
        .await
        .unwrap();
    for (place, fence) in fences.iter().enumerate() {
        let recorded: Vec<_> = (1..=EVENTS).map(|number| mixture(place, number)).collect();
        let messages = store.messages(fence.session, 0, 100).await.unwrap();
        let said: Vec<_> = messages[1..]
            .iter()
            .map(|message| (message.sequence, &message.content))
            .collect();
        let to_say = recorded.iter().flat_map(|event| &event.messages);
        let to_say: Vec<_> = (2..).zip(to_say.map(|message| &message.content)).collect();
        assert_eq!(said, to_say, "{place}");
        let transcript = store.transcript(fence.session, 0, 100).await.unwrap();
        let entered: Vec<_> = transcript.iter().map(|row| (row.sequence, &row.entry)).collect();
        let to_enter = recorded.iter().filter_map(|event| event.transcript.as_ref());
        let to_enter: Vec<_> = (1..).zip(to_enter.map(|(_, entry)| entry)).collect();
        assert_eq!(entered, to_enter, "{place}");
        let claimed = store.claim(&claim_of(fence.session)).await.unwrap().remove(0);
        let used = recorded.iter().filter_map(|event| event.usage);
        let used = used.fold(Usage::default(), Usage::plus);
        assert_eq!(claimed.session.usage, used, "{place}");
        let mut results = recorded.iter().filter_map(|event| event.result.clone());
        assert_eq!(claimed.reported, results.next_back(), "{place}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_gets_its_own_in_postgres() {
    with_postgres(|store, _| async move { each_session_gets_its_own(&*store).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_gets_its_own_in_sqlite() {
    with_sqlite(|store, _| async move { each_session_gets_its_own(&*store).await }).await;
}
