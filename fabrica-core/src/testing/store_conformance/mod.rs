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
    clippy::missing_panics_doc,
    reason = "a conformance case is a test, and a test panics where a promise is broken"
)]

mod claiming;
mod creating;
mod finishing;
mod fixture;
mod limiting;
mod noticing;
mod reading;
mod reaping;
mod recording;
mod taking_over;
mod taking_turns;
mod texts;

pub use self::claiming::*;
pub use self::creating::*;
pub use self::finishing::*;
pub use self::limiting::*;
pub use self::noticing::*;
pub use self::reading::*;
pub use self::reaping::*;
pub use self::recording::*;
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
