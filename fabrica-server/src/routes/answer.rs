//! `POST /sessions/{id}/answer`: answers the question that a session waits with, and `GET /sessions/{id}/questions`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use fabrica_core::ids::{QuestionId, SessionId};
use fabrica_core::orchestrator::AnswerSubmission;
use fabrica_core::ports::store::{Answered, StoreError};
use serde::{Deserialize, Serialize};

use crate::body::read_json;
use crate::extract::{PathSession, submitter};
use crate::problem::Problem;
use crate::state::AppState;
use crate::view::QuestionView;

/// An answer as it comes in.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wanted {
    answer: String,
    /// The question that is meant; without it, the one that is open.
    question_id: Option<String>,
    /// Who answers; without it, the submitter of the request.
    answered_by: Option<String>,
    /// A new version of the whole plan.
    plan: Option<String>,
}

/// The question that was answered.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Accepted {
    session_id: SessionId,
    question: QuestionView,
    message: &'static str,
}

/// Answers. The same answer again is accepted again; another one is a conflict.
pub(crate) async fn handle(
    State(state): State<AppState>,
    PathSession(session): PathSession,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    let by = submitter(&headers)?;
    let wanted: Wanted = read_json(&headers, body).await?;
    let question: Option<QuestionId> = wanted.question_id.as_deref().map(str::parse).transpose()?;
    let by = wanted.answered_by.unwrap_or(by);
    let answer = AnswerSubmission {
        session,
        question,
        text: wanted.answer.clone(),
        by: by.clone(),
        directory: None,
        plan: wanted.plan,
    };
    let (question, message) = match state.orchestrator.answer(answer).await? {
        Answered::Accepted(question) => (question, "The session goes on with the answer."),
        Answered::Already(question) => {
            let known = question.answer.as_ref();
            let same = known
                .is_some_and(|known| known.text == wanted.answer && known.by.as_deref() == Some(by.trim()));
            if !same {
                let who = known
                    .and_then(|known| known.by.clone())
                    .unwrap_or_else(|| "the deadline".into());
                let detail = format!("the question was answered before, by {who}");
                return Err(Problem::new("question.already_answered", detail)
                    .with("question", serde_json::json!(QuestionView::from(question))));
            }
            (
                question,
                "The question was answered before, with the same answer.",
            )
        }
    };
    let accepted = Accepted {
        session_id: session,
        question: question.into(),
        message,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

/// Lists a session's questions, oldest first.
pub(crate) async fn list(
    State(state): State<AppState>,
    PathSession(session): PathSession,
) -> Result<Json<Vec<QuestionView>>, Problem> {
    let store = state.orchestrator.store();
    let questions = store.questions(session).await?;
    if questions.is_empty() && store.session(session).await?.is_none() {
        return Err(StoreError::NoSuchSession(session).into());
    }
    Ok(Json(questions.into_iter().map(QuestionView::from).collect()))
}
