//! Notes of people to agents: their rows.

use fabrica_core::ids::{NoteId, SessionId};
use fabrica_core::ports::StoreError;
use fabrica_core::ports::store::Note;
use sqlx::types::Uuid;

use crate::rows::number;
use crate::values::Moment;

#[derive(sqlx::FromRow)]
pub(crate) struct NoteRow {
    id: Uuid,
    session_id: Uuid,
    number: i32,
    author: String,
    text: String,
    created_at: Moment,
}

impl TryFrom<NoteRow> for Note {
    type Error = StoreError;

    fn try_from(row: NoteRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: NoteId::from_uuid(row.id),
            session: SessionId::from_uuid(row.session_id),
            number: number("notes", row.id, "number", row.number)?,
            text: row.text,
            by: row.author,
            at: row.created_at.0,
        })
    }
}
