//! Reading what an agent said and did, while it works and afterwards.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use chrono::DateTime;
use fabrica_core::failure::Failure;
use fabrica_core::ids::{Fence, MessageId, QuestionId, SessionId, SpecId, WorkerId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::Store;
use fabrica_core::ports::store::{
    AttemptEnd, ClaimLimits, ClaimRequest, EventRecord, NewAnswer, NewQuestion, NewSession,
};
use fabrica_core::protocol::{Escalation, TranscriptEntry, Urgency};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::{Place, Said};

const ID: &str = "11111111-0000-4000-8000-000000000001";
/// How long what must happen may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A session in the place's store, with somebody who works on it.
struct Work {
    runtime: Runtime,
    store: Arc<dyn Store>,
    session: SessionId,
    fence: Option<Fence>,
    events: u64,
    ids: u128,
}

impl Work {
    /// A session that waits.
    fn new(place: &Place) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = runtime
            .block_on(fabrica_store::connect(&place.database()))
            .unwrap();
        let mut work = Self {
            runtime,
            store,
            session: ID.parse().unwrap(),
            fence: None,
            events: 0,
            ids: 0,
        };
        let session = NewSession {
            id: work.session,
            spec: SpecId::from_uuid(work.id()),
            content: "---\nrepo: https://git.example.com/acme/app.git\n---\n# Say hello\n".into(),
            repo_url: "https://git.example.com/acme/app.git".into(),
            title: "Say hello".into(),
            max_attempts: 3,
            priority: 0,
            submitter: None,
            idempotency_key: None,
            held: Duration::ZERO,
            message: work.message(),
        };
        work.runtime.block_on(work.store.create_session(session)).unwrap();
        work
    }

    fn id(&mut self) -> Uuid {
        self.ids += 1;
        Uuid::from_u128(0xaaaa_0000_0000_4000_8000_0000_0000_0000 + self.ids)
    }

    fn message(&mut self) -> NewMessage {
        NewMessage {
            id: MessageId::from_uuid(self.id()),
            kind: MessageKind::Progress,
            content: MessageContent::text("It goes on."),
        }
    }

    /// The next attempt begins.
    fn begin(&mut self) {
        let request = ClaimRequest {
            worker: WorkerId::new("worker"),
            lease: Duration::from_mins(10),
            limit: 1,
            takeovers: 0,
            only: None,
            limits: ClaimLimits::default(),
        };
        let begun = Instant::now();
        let claimed = loop {
            let claimed = self.runtime.block_on(self.store.claim(&request)).unwrap().pop();
            if let Some(claimed) = claimed {
                break claimed;
            }
            assert!(begun.elapsed() < PATIENCE, "the session can be claimed");
        };
        self.fence = Some(claimed.fence());
        self.events = 0;
    }

    fn says(&mut self, text: &str) {
        self.records("text", text, json!({ "text": text }));
    }

    fn records(&mut self, kind: &str, summary: &str, detail: Value) {
        self.events += 1;
        let entry = TranscriptEntry {
            kind: kind.into(),
            parent: None,
            summary: summary.into(),
            detail: serde_json::from_value(detail).unwrap(),
        };
        let event = EventRecord {
            event: self.events,
            transcript: Some((DateTime::UNIX_EPOCH, entry)),
            ..EventRecord::default()
        };
        let recorded = self.store.record(self.fence.unwrap(), vec![event]);
        self.runtime.block_on(recorded).unwrap();
    }

    fn ends(&mut self, end: AttemptEnd) {
        let messages = vec![self.message()];
        let finished = self.store.finish_attempt(self.fence.unwrap(), end, messages);
        self.runtime.block_on(finished).unwrap();
    }

    fn fails(&mut self) {
        self.ends(AttemptEnd::Failed(Failure::new(
            "agent.failed",
            "It failed",
            "Look.",
        )));
    }

    fn asks(&mut self) {
        let question = NewQuestion {
            id: QuestionId::from_uuid(self.id()),
            escalation: Escalation {
                question: "Which one?".into(),
                options: vec![],
                context: String::new(),
                urgency: Urgency::Normal,
            },
            deadline: None,
        };
        self.ends(AttemptEnd::Escalated(question));
    }

    fn is_answered(&mut self) {
        let answer = NewAnswer {
            session: self.session,
            question: None,
            text: "The second one.".into(),
            by: None,
            plan: None,
            message: self.message(),
        };
        self.runtime.block_on(self.store.answer(answer)).unwrap();
    }
}

/// The program while it runs.
struct Follower {
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Follower {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    /// Waits for a line with that text.
    #[track_caller]
    fn until(&self, wanted: &str) {
        until(&self.stdout, wanted);
    }

    #[track_caller]
    fn end(mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "it ends with its session");
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = self.child.wait().unwrap();
        (status, self.stdout.iter().collect(), self.stderr.iter().collect())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines() {
            if sender.send(line.unwrap()).is_err() {
                return;
            }
        }
    });
    receiver
}

#[track_caller]
fn until(lines: &Receiver<String>, wanted: &str) {
    let begun = Instant::now();
    loop {
        let line = lines.recv_timeout(PATIENCE.saturating_sub(begun.elapsed()));
        let line = line.map_err(|error| format!("no line with {wanted:?}: {error}"));
        if line.unwrap().contains(wanted) {
            return;
        }
    }
}

fn objects(said: &Said) -> Vec<Value> {
    let lines = said.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_ended_session_is_read_turn_by_turn() {
    let place = Place::new();
    let mut work = Work::new(&place);
    work.begin();
    work.says("I look.\n\u{1b}[2JThen I act.");
    let call = json!({"id": "t1", "name": "Bash", "input": {"command": "ls"}});
    work.records("tool_use", "Bash: ls", call);
    let result = json!({"tool_use_id": "t1", "content": "a\nb\nc"});
    work.records("tool_result", "a b c", result);
    work.fails();

    let said = place.run(&["transcript", "1111"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:#?}");
    insta::assert_snapshot!(said.stdout, @r"
    attempt 1, 1970-01-01T00:00:00Z

      0:00  I look.
            Then I act.
      0:00  ▸ Bash: ls
              └ 3 lines, the last: c
    ");
    let full = place.run(&["transcript", ID, "--full"]).stdout;
    assert!(
        full.contains("command: ls\n") && full.contains("\n            b\n"),
        "{full}"
    );
}

#[test]
fn programs_read_one_object_a_line() {
    let place = Place::new();
    let mut work = Work::new(&place);
    work.begin();
    work.says("Hello\u{9b}2J\n");
    work.ends(AttemptEnd::Lost {
        failure: Failure::new("runtime.lost", "It is gone", "Wait."),
        delay: Duration::ZERO,
        counts: true,
    });
    work.begin();
    work.says("Again");

    let said = place.run(&["transcript", "11111111", "--json"]);
    assert!(!said.stdout.contains('\u{9b}'), "{said:#?}");
    let mut lines = objects(&said);
    let sequences: Vec<u64> = lines
        .iter_mut()
        .map(|line| line["sequence"].take().as_u64().unwrap())
        .collect();
    assert!(sequences.is_sorted_by(|one, next| one < next), "{sequences:?}");
    let expected = |attempt: u32, text: &str, summary: &str| {
        json!({
            "sequence": null, "attempt": attempt, "at": "1970-01-01T00:00:00.000Z", "kind": "text", "parent": null,
            "summary": summary, "detail": {"text": text},
        })
    };
    assert_eq!(
        lines,
        [
            expected(1, "Hello\u{9b}2J\n", "Hello\u{9b}2J\n"),
            expected(2, "Again", "Again")
        ]
    );
}

#[test]
fn a_transcript_of_many_pages_is_read_whole_and_in_order() {
    let place = Place::new();
    let mut work = Work::new(&place);
    work.begin();
    for number in 0..250 {
        work.says(&format!("Entry {number}."));
    }
    let lines = objects(&place.run(&["transcript", ID, "--json"]));
    let said: Vec<&str> = lines
        .iter()
        .map(|line| line["summary"].as_str().unwrap())
        .collect();
    let expected: Vec<String> = (0..250).map(|number| format!("Entry {number}.")).collect();
    assert_eq!(said, expected);
}

#[test]
fn credentials_are_shown_to_nobody() {
    let place = Place::new();
    let mut work = Work::new(&place);
    work.begin();
    let key = ["ghp_", "canary0123456789canary0123456789abcd"].concat();
    let begin = ["-----BEGIN ", "PRIVATE KEY-----"].concat();
    let line = "canary+MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7";
    work.says(&format!("The token is {key}."));
    work.records(
        "output",
        line,
        json!({"step": "setup", "stream": "stdout", "lines": [begin, line]}),
    );
    let rest = json!({"step": "setup", "stream": "stdout", "lines": [line, "x"]});
    work.records("output", "x", rest);
    for arguments in [
        &["transcript", ID][..],
        &["transcript", ID, "--full"],
        &["transcript", ID, "--json"],
        &["show", ID, "--transcript"],
        &["show", ID, "--transcript", "--json"],
    ] {
        let said = place.run(arguments);
        assert!(said.stdout.contains("The token is [redacted]."), "{said:#?}");
        assert!(!said.stdout.contains("canary"), "{said:#?}");
    }
}

#[test]
fn where_there_is_nothing_to_read_it_says_so() {
    let place = Place::new();
    let mut work = Work::new(&place);
    for form in [&["transcript", ID][..], &["transcript", ID, "--json"]] {
        let said = place.run(form);
        assert_eq!((said.code, said.stdout.as_str()), (0, ""));
        assert_eq!(
            said.stderr,
            "session 11111111 is pending and has no transcript yet\n"
        );
    }
    work.begin();
    work.fails();
    let said = place.run(&["transcript", ID]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert_eq!(
        said.stderr,
        "session 11111111 has no transcript, or it was removed when its time was over\n"
    );
    place
        .run(&["transcript", "33"])
        .assert_refused(2, "session.not_found");
    place
        .run(&["transcript", "33333333-0000-4000-8000-000000000001", "--follow"])
        .assert_refused(2, "session.not_found");
}

#[test]
fn a_session_is_followed_to_its_end() {
    let place = Place::new();
    let mut work = Work::new(&place);
    let follower = Follower::start(&place, &["transcript", ID, "--follow"]);
    work.begin();
    work.says("It is on its way.");
    follower.until("It is on its way.");
    work.says("It goes on.");
    follower.until("It goes on.");
    work.says("The last words.");
    work.fails();
    let (status, rest, talk) = follower.end();
    assert!(status.success(), "{status}");
    assert_eq!(
        rest.iter()
            .filter(|line| line.contains("The last words."))
            .count(),
        1,
        "{rest:?}"
    );
    assert_eq!(talk, ["session 11111111 is failed"]);
}

#[test]
fn a_follower_waits_while_a_person_is_asked_and_says_so_once() {
    let place = Place::new();
    let mut work = Work::new(&place);
    work.begin();
    work.says("I ask.");
    let follower = Follower::start(&place, &["transcript", ID, "--follow", "--json"]);
    follower.until("I ask.");
    work.asks();
    until(
        &follower.stderr,
        "session 11111111 waits for a person; `fabrica answer 11111111`",
    );
    // More than two of its looks at the session: it neither ends nor repeats itself.
    assert_eq!(
        follower.stderr.recv_timeout(Duration::from_millis(1_200)),
        Err(RecvTimeoutError::Timeout)
    );
    work.is_answered();
    work.begin();
    work.says("I go on.");
    follower.until("I go on.");
    work.fails();
    let (status, rest, talk) = follower.end();
    assert!(status.success(), "{status}");
    assert_eq!(rest, [""; 0]);
    assert_eq!(talk, ["session 11111111 is failed"]);
}
