//! The kernel's table of processes, as far as the runner sees it.

use std::collections::{HashMap, HashSet};

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) zombie: bool,
}

/// All processes that can be seen. Those that end meanwhile are left out.
pub(super) fn read() -> Vec<Row> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| parse(pid, &std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .collect()
}

/// `pid (name) state parent …`, where the name may hold anything, parentheses too.
fn parse(pid: u32, stat: &str) -> Option<Row> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let zombie = matches!(fields.next()?, "Z" | "X");
    Some(Row {
        pid,
        parent: fields.next()?.parse().ok()?,
        zombie,
    })
}

/// Those below a process, without itself.
pub(super) fn descendants(rows: &[Row], root: u32) -> Vec<Row> {
    let mut children: HashMap<u32, Vec<Row>> = HashMap::new();
    for row in rows {
        children.entry(row.parent).or_default().push(*row);
    }
    let mut seen = HashSet::from([root]);
    let mut found = Vec::new();
    let mut queue = vec![root];
    while let Some(parent) = queue.pop() {
        for row in children.get(&parent).into_iter().flatten() {
            if seen.insert(row.pid) {
                found.push(*row);
                queue.push(row.pid);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse_the_reader() {
        let row = parse(7, "7 (a) Z 1) R 3 7 7 0 -1").unwrap();
        assert_eq!(
            row,
            Row {
                pid: 7,
                parent: 3,
                zombie: false
            }
        );
        assert!(parse(8, "8 (x) Z 1 8").unwrap().zombie);
    }

    #[test]
    fn descendants_are_found_at_every_depth() {
        let row = |pid, parent| Row {
            pid,
            parent,
            zombie: false,
        };
        let rows = [row(2, 1), row(3, 2), row(4, 3), row(9, 8), row(1, 0)];
        let mut pids: Vec<u32> = descendants(&rows, 2).iter().map(|row| row.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [3, 4]);
    }

    #[test]
    fn this_process_is_in_the_table() {
        assert!(read().iter().any(|row| row.pid == std::process::id()));
    }
}
