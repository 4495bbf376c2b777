//! What every [`Store`](crate::ports::Store) promises, as functions that panic where a promise is broken.
//!
//! Each adapter runs every case, each against an empty store of its own:
//!
//! ```
//! use std::sync::Arc;
//! use fabrica_core::testing::{store_conformance, store_fake::FakeStore};
//!
//! macro_rules! conformance {
//!     ($($case:ident),*) => {$(
//!         # #[allow(dead_code)]
//!         // #[tokio::test]
//!         async fn $case() {
//!             store_conformance::$case(Arc::new(FakeStore::default())).await;
//!         }
//!     )*};
//! }
//! fabrica_core::for_each_store_case!(conformance);
//! # fn main() {}
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a conformance case is a test, and a test panics where a promise is broken"
)]

mod asking;
mod checkpointing;
mod claiming;
mod creating;
mod finishing;
mod fixture;
mod giving_up;
mod limiting;
mod noticing;
mod reading;
mod reaping;
mod recording;
mod saying;
mod taking_over;
mod taking_turns;
mod texts;

pub use self::asking::*;
pub use self::checkpointing::*;
pub use self::claiming::*;
pub use self::creating::*;
pub use self::finishing::*;
pub use self::giving_up::*;
pub use self::limiting::*;
pub use self::noticing::*;
pub use self::reading::*;
pub use self::reaping::*;
pub use self::recording::*;
pub use self::saying::*;
pub use self::taking_over::*;
pub use self::taking_turns::*;
pub use self::texts::*;

/// Calls a macro with the names of all cases, separated by commas.
#[macro_export]
macro_rules! for_each_store_case {
    ($then:ident) => {
        $then! {
            creates_session_spec_and_first_message_together,
            same_idempotency_key_with_same_plan_creates_one_session,
            same_idempotency_key_with_another_plan_is_a_conflict,
            one_session_for_one_key_under_concurrency,
            a_repeated_creation_is_recognised_by_its_id,
            an_unknown_session_is_none,
            lists_newest_first_in_pages,
            lists_by_status,
            the_states_of_sessions_are_told,
            messages_are_read_after_a_cursor,
            a_message_is_marked_as_read_once,
            transcript_is_read_after_a_cursor,
            claims_the_one_that_waited_longest,
            claims_only_the_one_that_was_asked_for,
            a_held_session_waits_for_its_own_worker,
            no_two_workers_get_the_same_session,
            a_held_lease_is_not_claimed,
            every_write_of_an_older_attempt_is_refused,
            only_held_leases_are_renewed,
            a_renewed_lease_does_not_expire,
            a_cancelled_session_is_not_run_again,
            an_attempt_writes_down_what_it_is_about_to_do,
            an_expired_lease_is_taken_over_and_the_attempt_goes_on,
            every_write_under_an_older_lease_is_refused,
            a_released_lease_can_be_taken_over_at_once,
            only_named_leases_are_released,
            a_worker_gets_back_what_it_held,
            a_takeover_tells_how_far_the_attempt_came,
            the_longest_without_lease_is_taken_over_first,
            a_last_attempt_without_lease_is_taken_over,
            a_cancelled_session_without_lease_is_taken_over,
            one_of_many_workers_takes_over,
            a_higher_priority_goes_first,
            submitters_take_turns,
            a_busy_submitter_waits_for_others,
            a_global_limit_is_kept,
            a_limit_for_each_repository_is_kept,
            a_limit_for_each_submitter_is_kept,
            limits_do_not_keep_from_what_is_one_s_own,
            a_global_limit_is_kept_when_many_claim_at_once,
            a_limit_for_each_repository_is_kept_when_many_claim_at_once,
            a_limit_for_each_submitter_is_kept_when_many_claim_at_once,
            many_workers_share_the_sessions_of_many_submitters,
            old_sessions_are_reaped_in_batches,
            old_transcripts_are_reaped_in_batches,
            old_artifacts_are_reaped_in_batches,
            what_is_young_or_not_over_is_not_reaped,
            events_are_recorded_once,
            an_overlapping_batch_stores_only_what_is_new,
            a_missing_event_is_refused_and_changes_nothing,
            an_empty_batch_only_asks,
            concurrent_deliveries_of_one_batch_store_it_once,
            sequences_have_no_gaps_under_concurrency,
            usage_adds_up_over_attempts_and_never_overflows,
            an_unpublished_result_is_handed_on,
            the_newest_unpublished_result_counts,
            messages_are_added_in_sequence,
            a_finished_result_is_not_handed_on,
            an_artifact_is_replaced_by_name,
            a_pull_request_is_kept,
            every_end_sets_its_status,
            an_attempt_ends_once,
            a_lost_attempt_waits_for_its_delay,
            a_lost_last_attempt_is_refused_and_changes_nothing,
            attempts_that_do_not_count_are_replaced_a_bounded_number_of_times,
            attempts_that_count_are_used_up,
            a_lost_attempt_of_a_cancelled_session_is_cancelled_next,
            cancelling_depends_on_the_status,
            a_question_is_stored_with_the_end_of_its_attempt,
            a_refused_end_stores_no_question,
            an_answer_is_accepted_once,
            one_of_many_answers_is_accepted,
            an_answer_meets_only_questions_that_were_asked,
            a_cancelled_session_waits_for_no_answer,
            an_answer_loses_or_wins_against_a_cancellation,
            an_amended_plan_is_the_next_version,
            an_answer_brings_an_attempt_of_its_own,
            an_answered_question_is_handed_on,
            only_the_newest_question_counts,
            an_answer_makes_the_session_claimable,
            questions_go_with_their_session,
            nul_characters_of_questions_and_answers_are_replaced,
            hostile_questions_and_answers_come_back_byte_for_byte,
            a_checkpoint_is_handed_on_with_its_attempt,
            the_newest_checkpoint_counts,
            checkpoints_are_recorded_once_beside_everything_else,
            a_reminder_is_due_after_half_the_time,
            a_reminder_is_sent_once,
            a_question_is_given_up_once_and_only_after_its_deadline,
            an_answer_or_the_deadline_wins,
            what_no_longer_waits_is_not_due,
            the_earliest_deadline_is_due_first,
            a_note_is_kept_and_told,
            notes_are_numbered_without_gaps_under_concurrency,
            a_session_that_has_ended_goes_on,
            a_completion_that_has_not_heard_everything_goes_on,
            nothing_is_said_to_who_waits_for_an_answer_or_is_not_there,
            every_message_is_noticed_once,
            claimable_sessions_are_noticed,
            a_request_to_cancel_is_noticed,
            a_token_is_created_once,
            a_large_plan_comes_back_byte_for_byte,
            hostile_texts_come_back_byte_for_byte,
            nul_characters_are_replaced_and_never_refused
        }
    };
}
