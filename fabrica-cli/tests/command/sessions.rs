//! Looking at sessions that are there.

use fabrica_core::ids::{MessageId, SessionId, SpecId};
use fabrica_core::message::{MessageContent, MessageKind, NewMessage};
use fabrica_core::ports::store::NewSession;
use uuid::Uuid;

use crate::Place;

const PLAN: &str = "---\r\nrepo: https://git.example.com/acme/app.git\r\n---\r\n# Say hello\r\n";

impl Place {
    /// Stores a session with that beginning of its id.
    fn store(&self, id: u128, title: &str) -> SessionId {
        let id = SessionId::from_uuid(Uuid::from_u128(id));
        let text = format!("Queued: {title}");
        let session = NewSession {
            id,
            spec: SpecId::from_uuid(*id.as_uuid()),
            content: PLAN.into(),
            repo_url: "https://git.example.com/acme/app.git".into(),
            title: title.into(),
            max_attempts: 1,
            priority: 0,
            submitter: None,
            idempotency_key: None,
            held: std::time::Duration::ZERO,
            message: NewMessage {
                id: MessageId::from_uuid(*id.as_uuid()),
                kind: MessageKind::Progress,
                content: MessageContent::text(text).with("step", "queued"),
            },
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = fabrica_store::connect(&self.database()).await.unwrap();
            store.create_session(session).await.unwrap();
        });
        id
    }
}

#[test]
fn an_empty_store_has_no_sessions() {
    let place = Place::new();
    let said = place.run(&["sessions"]);
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert_eq!(place.run(&["sessions", "--json"]).stdout, "[]\n");
}

#[test]
fn sessions_are_listed_and_filtered() {
    let place = Place::new();
    place.store(0x1111_1111_0000_4000_8000_0000_0000_0001, "First");
    place.store(0x2222_2222_0000_4000_8000_0000_0000_0002, "Second \u{1b}[2J");
    let said = place.run(&["sessions"]);
    assert!(
        said.stdout.contains("11111111  pending") && said.stdout.contains("Second (https"),
        "{said:#?}"
    );
    assert!(!said.stdout.contains('\u{1b}'), "{said:#?}");
    assert_eq!(
        place
            .run(&["sessions", "--status", "failed,completed", "--json"])
            .stdout,
        "[]\n"
    );
    let one: serde_json::Value =
        serde_json::from_str(&place.run(&["sessions", "--limit", "1", "--json"]).stdout).unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
}

#[test]
fn a_session_is_found_by_the_beginning_of_its_id() {
    let place = Place::new();
    let first = place.store(0x1111_1111_0000_4000_8000_0000_0000_0001, "First");
    place.store(0x1112_2222_0000_4000_8000_0000_0000_0002, "Second");
    let said = place.run(&["show", "11111"]);
    assert!(said.stdout.contains(&first.to_string()), "{said:#?}");
    place.run(&["show", "111"]).assert_refused(2, "session.ambiguous");
    place.run(&["show", "33"]).assert_refused(2, "session.not_found");
    place
        .run(&["show", "../../etc"])
        .assert_refused(2, "session.not_found");
    place
        .run(&["show", "33333333-0000-4000-8000-000000000001"])
        .assert_refused(2, "session.not_found");
}

#[test]
fn messages_and_the_plan_are_shown() {
    let place = Place::new();
    let id = place
        .store(0x1111_1111_0000_4000_8000_0000_0000_0001, "First")
        .to_string();
    let said = place.run(&["show", &id, "--messages"]);
    assert!(said.stdout.contains("queued      Queued: First"), "{said:#?}");
    assert_eq!(place.run(&["show", &id, "--plan"]).stdout, PLAN, "byte for byte");
    let object: serde_json::Value =
        serde_json::from_str(&place.run(&["show", &id, "--json", "--messages"]).stdout).unwrap();
    assert_eq!(object["status"], "pending");
    assert_eq!(object["messages"][0]["content"]["message"], "Queued: First");
}
