//! From the driver's errors to the port's.

use fabrica_core::ports::StoreError;

/// Maps an error of the driver.
pub(crate) fn database(error: sqlx::Error) -> StoreError {
    let message = error.to_string();
    if is_transient(&error) {
        StoreError::Unavailable {
            message,
            source: Some(Box::new(error)),
        }
    } else {
        StoreError::Database {
            message,
            source: Some(Box::new(error)),
        }
    }
}

/// Whether the same call may succeed later.
pub(crate) fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(database) => database.code().is_some_and(|code| is_transient_code(&code)),
        _ => false,
    }
}

/// Whether PostgreSQL took a transaction back for the sake of another one. The connection is as good as before.
pub(crate) fn is_yielding(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return false;
    };
    matches!(database.code().as_deref(), Some("40001" | "40P01" | "55P03"))
}

fn is_transient_code(code: &str) -> bool {
    // PostgreSQL's are five characters: lost connections, rolled back for another's sake, out of resources, shutting
    // down, idle for too long in a transaction. SQLite's are numbers, the primary code in the lowest byte: busy, locked, I/O error, disk full.
    if code.len() == 5 {
        return code.starts_with("08")
            || code.starts_with("53")
            || code.starts_with("57P")
            || matches!(code, "25P03" | "40001" | "40P01" | "55P03");
    }
    code.parse::<u32>()
        .is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13))
}

#[cfg(test)]
mod tests {
    use super::is_transient_code;

    #[test]
    fn what_passes_may_be_repeated() {
        for code in [
            "08006", "25P03", "40001", "40P01", "53300", "57P01", "5", "517", "261", "6", "13",
        ] {
            assert!(is_transient_code(code), "{code}");
        }
        for code in ["23505", "42P01", "22P05", "19", "2067", "1", "nonsense"] {
            assert!(!is_transient_code(code), "{code}");
        }
    }
}
