//! What has to be true, seen from outside: the database's rows against the engine's, the code host's and the agent's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::database::SessionRow;
use crate::engine::EngineEvent;
use crate::report::Tally;
use crate::world::World;

/// How long a world may stand still before what has not ended counts as hung.
const STANDSTILL: Duration = Duration::from_secs(90);
/// How long what is left of ended sessions may stay.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// How long a push that was allowed may be under way.
const IN_FLIGHT: Duration = Duration::from_secs(3);

/// Waits for the end of all sessions, and compares everything with everything.
pub(crate) async fn audit(world: &World, tally: &Tally) -> Result<Vec<SessionRow>> {
    let sessions = settle(world, tally).await?;
    for session in &sessions {
        rows(world, tally, session).await?;
        output(world, tally, session).await?;
        containers(world, tally, session);
    }
    published(world, tally, &sessions).await?;
    nothing_left(world, tally, &sessions).await?;
    strangers(world, tally).await;
    for place in 0..world.size() {
        let died = world.replica(place).await.has_died();
        tally.check(!died, || {
            format!("replica {} ended without being asked to", place + 1)
        });
    }
    Ok(sessions)
}

/// Waits until every session is terminal, for as long as any of them moves.
pub(crate) async fn settle(world: &World, tally: &Tally) -> Result<Vec<SessionRow>> {
    let (mut known, mut moved) = (String::new(), Instant::now());
    loop {
        let sessions = world.database.sessions().await?;
        let open: Vec<_> = sessions.iter().filter(|session| !session.is_terminal()).collect();
        if open.is_empty() {
            return Ok(sessions);
        }
        let mut state = format!("{} open", open.len());
        for session in &open {
            let entries = world.database.entries(session.id).await?;
            state += &format!(" {} {} {entries}", session.status, session.attempt);
        }
        if state != known {
            (known, moved) = (state, Instant::now());
        }
        if moved.elapsed() > STANDSTILL {
            for session in &open {
                tally.check(false, || format!("the session never ends: {session:?}"));
            }
            return Ok(sessions);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// What one session's rows say about one another.
pub(crate) async fn rows(world: &World, tally: &Tally, session: &SessionRow) -> Result<()> {
    let id = session.id;
    let messages = world.database.messages(id).await?;
    let gapless = messages
        .iter()
        .zip(1_i64..)
        .all(|(message, place)| message.seq == place);
    tally.check(
        gapless && messages.len() as u64 == session.message_seq.unsigned_abs(),
        || {
            let numbers: Vec<i64> = messages.iter().map(|message| message.seq).collect();
            format!(
                "{id}: messages are numbered {numbers:?}, and the last number is {}",
                session.message_seq
            )
        },
    );
    let completions = messages
        .iter()
        .filter(|message| message.kind == "completion")
        .count();
    tally.check(completions == usize::from(session.status == "completed"), || {
        format!(
            "{id} is {} and has {completions} completion messages",
            session.status
        )
    });
    let errors = messages.iter().filter(|message| message.kind == "error").count();
    tally.check(errors == 1 || session.status != "failed", || {
        format!("{id} has failed, with {errors} error messages")
    });
    tally.check(session.ended.is_some() == session.is_terminal(), || {
        format!(
            "{id} is {}, and its end is at {:?}",
            session.status, session.ended
        )
    });
    let attempts = world.database.attempts(id).await?;
    let numbered = attempts
        .iter()
        .zip(1..)
        .all(|(attempt, number)| attempt.number == number);
    tally.check(
        numbered && attempts.len() == session.attempt.unsigned_abs() as usize,
        || {
            format!(
                "{id} is at attempt {}, with these rows: {attempts:?}",
                session.attempt
            )
        },
    );
    if session.is_terminal() {
        let open = attempts
            .iter()
            .filter(|attempt| attempt.outcome.is_none())
            .count();
        tally.check(open == 0, || {
            format!("{id} has ended, but not its attempts: {attempts:?}")
        });
    }
    let reported = attempts.iter().filter(|attempt| attempt.reported).count();
    tally.check(session.status != "completed" || reported == 1, || {
        format!("{id} was completed by {reported} attempts: {attempts:?}")
    });
    Ok(())
}

/// Every numbered line once and in order: all of them from an attempt that succeeded, a beginning from any other.
pub(crate) async fn output(world: &World, tally: &Tally, session: &SessionRow) -> Result<()> {
    let Some(expected) = world.expected(session.id) else {
        return Ok(());
    };
    let id = session.id;
    let mut last: BTreeMap<i32, u32> = BTreeMap::new();
    for row in world.database.output(id).await? {
        let Some(number) = expected.agent.number(&row.text) else {
            let ours = row.text.starts_with("line ");
            tally.check(!ours, || {
                format!("{id}: a line is not the agent's: {:?}", row.text)
            });
            continue;
        };
        let before = last.insert(row.attempt, number).unwrap_or(0);
        if number != before + 1 {
            tally.broken(format!(
                "{id}, attempt {}: line {number} comes after {before}",
                row.attempt
            ));
        }
    }
    tally.check(true, String::new);
    if session.status == "completed" {
        let attempts = world.database.attempts(id).await?;
        let author = attempts.iter().find(|attempt| attempt.reported);
        let lines = author
            .and_then(|author| last.get(&author.number))
            .copied()
            .unwrap_or(0);
        tally.check(lines == expected.agent.lines, || {
            format!(
                "{id} is completed with {lines} of {} lines ({last:?})",
                expected.agent.lines
            )
        });
    }
    Ok(())
}

/// One start for each attempt, and never two at once.
fn containers(world: &World, tally: &Tally, session: &SessionRow) {
    let events = world.engine.events(&session.id.to_string());
    let mut starts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut running: BTreeSet<&str> = BTreeSet::new();
    for event in &events {
        match event.action.as_str() {
            "start" => {
                *starts.entry(&event.name).or_default() += 1;
                running.insert(&event.name);
                let others = running.len() - 1;
                tally.check(others == 0, || {
                    format!("{}: {running:?} run at the same time", session.id)
                });
            }
            "die" | "destroy" => {
                running.remove(event.name.as_str());
            }
            _ => {}
        }
    }
    for (name, count) in starts {
        tally.check(count == 1, || {
            format!("{name} was started {count} times: {}", told(&events))
        });
        let attempt = events.iter().find(|event| event.name == name).and_then(number);
        tally.check(attempt.is_some_and(|number| number <= session.attempt), || {
            format!("{name} ran, but the session is at attempt {}", session.attempt)
        });
    }
}

/// The attempt that a container belongs to.
fn number(event: &EngineEvent) -> Option<i32> {
    event.name.rsplit('-').next()?.parse().ok()
}

pub(crate) fn told(events: &[EngineEvent]) -> String {
    events
        .iter()
        .map(|event| format!("{} {} at {:.3}", event.action, event.name, event.at))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One branch and one pull request at most; no push by an attempt after a later one began, and none after a cancellation.
async fn published(world: &World, tally: &Tally, sessions: &[SessionRow]) -> Result<()> {
    let references = world.repository.refs().await?;
    let requests = world.host.forge().pull_requests();
    let pushes = world.pushes();
    let mut known: BTreeSet<String> = BTreeSet::from(["refs/heads/main".to_owned()]);
    for session in sessions {
        let id = session.id;
        let Some(branch) = &session.branch_name else {
            continue;
        };
        let own_references = [
            format!("refs/heads/{branch}"),
            format!("refs/fabrica/{id}/checkpoint"),
        ];
        known.extend(own_references.clone());
        let own: Vec<_> = requests
            .iter()
            .filter(|request| request.head == *branch)
            .collect();
        tally.check(own.len() <= 1, || format!("{id} has {} pull requests", own.len()));
        if session.status == "completed" {
            tally.check(own.len() == 1 && session.pr_url.is_some(), || {
                format!(
                    "{id} is completed with {} pull requests, and pr_url {:?}",
                    own.len(),
                    session.pr_url
                )
            });
        }
        let events = world.engine.events(&id.to_string());
        for push in pushes
            .iter()
            .filter(|push| own_references.contains(&push.reference))
        {
            let author = push
                .container
                .as_deref()
                .and_then(|container| events.iter().find(|event| event.container.starts_with(container)));
            let later = author.and_then(|author| {
                events.iter().find(|event| {
                    event.action == "start" && number(event) > number(author) && event.at < push.at
                })
            });
            tally.check(later.is_none(), || {
                format!(
                    "{id}: {push:?} came after a later attempt had begun: {}",
                    told(&events)
                )
            });
            let late = session.ended.is_some_and(|ended| push.at > ended);
            tally.check(!late, || {
                format!("{id} ended at {:?}, and then came {push:?}", session.ended)
            });
        }
    }
    for (branch, when) in world
        .deleted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .iter()
    {
        let reference = format!("refs/heads/{branch}");
        let when = when.duration_since(UNIX_EPOCH).unwrap_or_default() + IN_FLIGHT;
        let late = pushes
            .iter()
            .find(|push| push.reference == reference && push.at > when.as_secs_f64());
        tally.check(late.is_none(), || {
            format!("a session without rows pushed: {late:?}")
        });
        known.insert(reference);
        // Of a session without a row only the beginning of its id is known.
        let checkpoint = branch
            .strip_prefix("fabrica/")
            .map(|short| format!("refs/fabrica/{short}"));
        let checkpoints = references
            .iter()
            .map(|(reference, _)| reference)
            .filter(|reference| {
                checkpoint
                    .as_ref()
                    .is_some_and(|begin| reference.starts_with(begin))
            });
        known.extend(checkpoints.cloned());
    }
    for (reference, _) in references {
        tally.check(known.contains(&reference), || {
            format!("nobody's ref: {reference}")
        });
    }
    Ok(())
}

/// No container, volume or socket of an ended session.
async fn nothing_left(world: &World, tally: &Tally, sessions: &[SessionRow]) -> Result<()> {
    let owner = world.owner().await?;
    let ended: BTreeSet<String> = sessions
        .iter()
        .filter(|session| session.is_terminal())
        .map(|session| session.id.to_string())
        .collect();
    let is_ended = |name: &str| ended.iter().any(|id| name.contains(id.as_str()));
    let asked = Instant::now();
    loop {
        let mut left: Vec<String> = world.engine.containers(owner).await?.into_keys().collect();
        left.extend(world.engine.volumes().await?);
        left.extend(sockets(world));
        left.retain(|name| is_ended(name));
        if left.is_empty() {
            tally.took("clean after the last end", asked.elapsed());
            break;
        }
        if asked.elapsed() > LEFTOVERS {
            tally.check(false, || format!("left of ended sessions: {left:?}"));
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    tally.check(true, String::new);
    Ok(())
}

/// The gateway's directories.
fn sockets(world: &World) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![world.sockets.clone()];
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            found.push(entry.file_name().to_string_lossy().into_owned());
            if entry.path().is_dir() {
                open.push(entry.path());
            }
        }
    }
    found
}

/// What is not Fabrica's still runs, as it did from the beginning.
pub(crate) async fn strangers(world: &World, tally: &Tally) {
    for stranger in &world.strangers {
        let since = world.engine.running_since(&stranger.name).await;
        tally.check(since.as_deref() == Some(stranger.since.as_str()), || {
            format!(
                "the stranger {} was touched: {since:?}, not {}",
                stranger.name, stranger.since
            )
        });
    }
}
