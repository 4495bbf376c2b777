//! Texts come back as they went in.

use serde_json::{Value, json};

use super::fixture::{
    LONG, Subject, all_messages, claim, created_as, entry, event, ids, message, new_session, question,
};
use crate::failure::Failure;
use crate::ids::WorkerId;
use crate::message::{MessageContent, NewMessage};
use crate::ports::store::{
    AttemptEnd, AttemptStart, Created, EventRecord, NewAnswer, NewArtifact, NewQuestion, NewSession, Question,
};
use crate::protocol::{Checkpoint, Escalation, Urgency};
use crate::secrets::TokenHash;
use crate::session::Spec;

/// Texts that mean something to somebody.
const HOSTILE: [&str; 8] = [
    "'; drop table sessions; --",
    "{\"a\": [1, 2], \"b\": \"}{\"}",
    "\\u0000 \\x00 \\\\ $1 %s ?1 :name {}",
    "\u{1}\u{7}\u{1b}[31mred\u{1b}[0m\u{7f}",
    "\u{FFFF}\u{10FFFF}\u{202E}\u{200B}e\u{301}",
    "a,b\t\"c\"\r\n{NULL,\"}",
    "",
    "   ",
];

/// The largest plan, with every line ending.
pub async fn a_large_plan_comes_back_byte_for_byte(store: Subject) {
    let mut content = String::from("\u{FEFF}---\r\nrepo: x\r\n---\r\n\ttäglich \u{1F980} \r \n\n");
    while content.len() < 256 * 1024 - 16 {
        content.push_str("0123456789 é\r\n");
    }
    let id = created_as(
        &store,
        NewSession {
            content: content.clone(),
            ..new_session()
        },
    )
    .await;
    assert!(store.specs(id).await.unwrap()[0].content == content);
    assert!(claim(&store, LONG).await.spec.content == content);
}

/// No text is syntax.
pub async fn hostile_texts_come_back_byte_for_byte(store: Subject) {
    for text in HOSTILE {
        let mut said = message(text);
        said.content = said.content.with(
            text,
            json!([text, {text: text}, 1.5, null, true, u64::MAX, i64::MIN]),
        );
        let new = NewSession {
            title: text.into(),
            repo_url: text.into(),
            submitter: Some(text.into()),
            content: text.into(),
            message: said.clone(),
            ..new_session()
        };
        let id = created_as(&store, new).await;
        let fence = claim(&store, LONG).await.fence();
        let mut line = entry(text);
        line.parent = Some(text.into());
        line.detail.insert(text.into(), json!(text));
        let record = EventRecord {
            messages: vec![],
            transcript: Some((chrono::DateTime::UNIX_EPOCH, line.clone())),
            ..event(1)
        };
        store.record(fence, vec![record]).await.unwrap();
        let artifact = NewArtifact {
            id: ids().artifact(),
            name: text.into(),
            content: text.into(),
        };
        store.store_artifact(fence, artifact).await.unwrap();

        let session = store.session(id).await.unwrap().unwrap();
        assert_eq!(
            (session.title.as_deref(), session.repo_url.as_str()),
            (Some(text), text)
        );
        assert_eq!(session.submitter.as_deref(), Some(text));
        assert_eq!(store.specs(id).await.unwrap()[0].content, text);
        assert_eq!(all_messages(&store, id).await[0].content, said.content);
        assert_eq!(store.transcript(id, 0, 9).await.unwrap()[0].entry, line);
        assert_eq!(
            store.artifact(id, text).await.unwrap().as_deref(),
            Some(text.as_bytes())
        );
    }
}

/// A NUL character becomes U+FFFD wherever it comes in; it never stops a session.
pub async fn nul_characters_are_replaced_and_never_refused(store: Subject) {
    let (nul, clean) = ("a\0b", "a\u{FFFD}b");
    let said = || NewMessage {
        content: MessageContent::text(nul).with(nul, json!([nul])),
        ..message("")
    };
    let new = || NewSession {
        title: nul.into(),
        repo_url: nul.into(),
        submitter: Some(nul.into()),
        content: nul.into(),
        idempotency_key: Some(nul.into()),
        message: said(),
        ..new_session()
    };
    let id = created_as(&store, new()).await;
    assert_eq!(store.create_session(new()).await.unwrap(), Created::Existing(id));
    let fence = claim(&store, LONG).await.fence();
    let start = AttemptStart {
        container: nul.into(),
        branch: nul.into(),
        title: nul.into(),
        runner_token: TokenHash::of("runner"),
        agent_token: TokenHash::of("agent"),
    };
    store.start_attempt(fence, start).await.unwrap();
    let mut line = entry(nul);
    line.kind = nul.into();
    line.detail.insert(nul.into(), json!(nul));
    let record = EventRecord {
        messages: vec![said()],
        transcript: Some((chrono::DateTime::UNIX_EPOCH, line)),
        result: Some(json!({nul: nul})),
        ..event(1)
    };
    store.record(fence, vec![record]).await.unwrap();
    let artifact = NewArtifact {
        id: ids().artifact(),
        name: nul.into(),
        content: nul.into(),
    };
    store.store_artifact(fence, artifact).await.unwrap();
    store.set_pull_request(fence, nul).await.unwrap();
    assert_eq!(
        store
            .renew_leases(&WorkerId::new(nul), &[fence], LONG)
            .await
            .unwrap(),
        []
    );
    store.create_token(nul, TokenHash::of("token")).await.unwrap();
    assert!(store.token(clean).await.unwrap().is_some() && store.token(nul).await.unwrap().is_some());
    let end = AttemptEnd::Failed(Failure::new(nul, nul, nul).with_diagnosis([nul]));
    store.finish_attempt(fence, end, vec![said()]).await.unwrap();

    let session = store.session(id).await.unwrap().unwrap();
    assert_eq!(
        (session.title.as_deref(), session.branch_name.as_deref()),
        (Some(clean), Some(clean))
    );
    assert_eq!(
        (session.pr_url.as_deref(), session.repo_url.as_str()),
        (Some(clean), clean)
    );
    assert_eq!(store.specs(id).await.unwrap()[0].content, clean);
    let messages = all_messages(&store, id).await;
    assert_eq!(messages.len(), 3);
    for message in messages {
        assert_eq!(message.content.message, clean);
        assert_eq!(Value::Object(message.content.metadata), json!({clean: [clean]}));
    }
    let stored = store.transcript(id, 0, 9).await.unwrap();
    assert_eq!(
        (stored[0].entry.kind.as_str(), stored[0].entry.summary.as_str()),
        (clean, clean)
    );
    // An artifact's bytes are bytes.
    assert_eq!(
        store.artifact(id, nul).await.unwrap().as_deref(),
        Some(nul.as_bytes())
    );
}

/// A question, its answer and the checkpoint before it, all of the same text.
async fn asked_with(store: &Subject, text: &str) -> (Question, Checkpoint, Spec) {
    let id = created_as(store, new_session()).await;
    let fence = claim(store, LONG).await.fence();
    let checkpoint = Checkpoint {
        reference: text.into(),
        commit: text.into(),
        head: text.into(),
        conversation: true,
        heard: 0,
    };
    let record = EventRecord {
        checkpoint: Some(checkpoint),
        ..event(1)
    };
    store.record(fence, vec![record]).await.unwrap();
    let new = NewQuestion {
        escalation: Escalation {
            question: text.into(),
            options: vec![text.into(), String::new()],
            context: text.into(),
            urgency: Urgency::Normal,
        },
        ..question()
    };
    store
        .finish_attempt(fence, AttemptEnd::Escalated(new), vec![message(text)])
        .await
        .unwrap();
    let answer = NewAnswer {
        session: id,
        question: None,
        text: text.into(),
        by: Some(text.into()),
        plan: Some((ids().spec(), text.into())),
        message: message(text),
    };
    store.answer(answer).await.unwrap();
    let claimed = claim(store, LONG).await;
    let answered = claimed.answered.unwrap();
    assert_eq!(
        store.questions(id).await.unwrap(),
        std::slice::from_ref(&answered)
    );
    (answered, claimed.checkpoint.unwrap().1, claimed.spec)
}

fn assert_all_are(text: &str, (question, checkpoint, spec): (Question, Checkpoint, Spec)) {
    let escalation = question.escalation;
    assert_eq!(
        (escalation.question.as_str(), escalation.context.as_str()),
        (text, text)
    );
    assert_eq!(escalation.options, [text, ""]);
    let answer = question.answer.unwrap();
    assert_eq!((answer.text.as_str(), answer.by.as_deref()), (text, Some(text)));
    assert_eq!(
        [
            &*checkpoint.reference,
            &*checkpoint.commit,
            &*checkpoint.head,
            &*spec.content
        ],
        [text; 4]
    );
}

/// What people ask and answer is no syntax either.
pub async fn hostile_questions_and_answers_come_back_byte_for_byte(store: Subject) {
    for text in HOSTILE {
        assert_all_are(text, asked_with(&store, text).await);
    }
}

/// As everywhere else.
pub async fn nul_characters_of_questions_and_answers_are_replaced(store: Subject) {
    assert_all_are("a\u{FFFD}b", asked_with(&store, "a\0b").await);
}
