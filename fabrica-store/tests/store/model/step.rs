//! What may happen next. A step names nothing that exists: it says which of those that there will be it means.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

/// One of those that are there, counted from the newest.
pub(super) type Back = usize;

/// A fence that was handed out, or nearly one.
#[derive(Debug, Clone)]
pub(super) struct FenceChoice {
    /// Among those that may still write, if there are any.
    pub(super) live: bool,
    pub(super) back: Back,
    pub(super) skew: Skew,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Skew {
    None,
    Attempt(i8),
    Lease(i8),
    Nobody,
}

/// How long a question waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    ForEver,
    Long,
    NotAtAll,
}

/// Of a session, one that is newest or not, or another session's.
#[derive(Debug, Clone)]
pub(super) struct AnswerChoice {
    pub(super) session: Back,
    /// None is the open one.
    pub(super) question: Option<Back>,
    pub(super) by_name: bool,
    pub(super) plan: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    Completed { heard: u32 },
    Failed,
    Cancelled,
    Escalated(Wait),
    Lost { waits: bool, counts: bool },
}

/// What an event brings.
#[derive(Debug, Clone, Copy)]
pub(super) struct EventChoice {
    pub(super) messages: usize,
    pub(super) transcript: bool,
    pub(super) usage: bool,
    pub(super) result: bool,
    /// Whether it has the conversation.
    pub(super) checkpoint: Option<bool>,
}

#[derive(Debug, Clone)]
pub(super) struct CreateChoice {
    pub(super) again: Option<Back>,
    pub(super) key: Option<u8>,
    pub(super) content: u8,
    pub(super) submitter: Option<u8>,
    pub(super) repository: u8,
    pub(super) priority: i32,
    pub(super) max_attempts: u32,
    pub(super) held: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ClaimChoice {
    pub(super) worker: u8,
    pub(super) limit: u32,
    pub(super) takeovers: u32,
    pub(super) only: Option<Back>,
    pub(super) limits: [Option<u32>; 3],
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Create(CreateChoice),
    Claim(ClaimChoice),
    Renew(u8, Vec<FenceChoice>),
    Release(u8, Option<Vec<FenceChoice>>),
    Start(FenceChoice),
    /// The first event is so far behind the last one that is stored.
    Record(FenceChoice, i8, Vec<EventChoice>),
    AddMessages(FenceChoice, usize),
    StoreArtifact(FenceChoice, u8),
    SetPullRequest(FenceChoice),
    Finish(FenceChoice, End, usize),
    Cancel(Back),
    Answer(AnswerChoice),
    Say(Back, u32),
    Remind(Back),
    GiveUp(Back),
    Due(u32),
    MarkRead(Back),
    /// Sessions, transcripts, artifacts: whether they are kept for long, for no time, or for ever.
    Reap([Option<bool>; 3], u32),
    Messages(Back, u64, u32),
}

fn fence() -> impl Strategy<Value = FenceChoice> {
    let skew = prop_oneof![
        20 => Just(Skew::None),
        1 => prop_oneof![Just(-1), Just(1)].prop_map(Skew::Attempt),
        1 => prop_oneof![Just(-1), Just(1)].prop_map(Skew::Lease),
        1 => Just(Skew::Nobody),
    ];
    let back = prop_oneof![4 => 0_usize..3, 1 => 3_usize..12];
    (prop::bool::weighted(0.8), back, skew).prop_map(|(live, back, skew)| FenceChoice { live, back, skew })
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        2 => (0_u32..3).prop_map(|heard| End::Completed { heard }),
        1 => Just(End::Failed),
        1 => Just(End::Cancelled),
        4 => prop_oneof![Just(Wait::ForEver), Just(Wait::Long), Just(Wait::NotAtAll)].prop_map(End::Escalated),
        9 => (prop::bool::weighted(0.2), any::<bool>()).prop_map(|(waits, counts)| End::Lost { waits, counts }),
    ]
}

fn create() -> impl Strategy<Value = CreateChoice> {
    (
        option::weighted(0.1, 0_usize..5),
        option::weighted(0.3, 0_u8..3),
        0_u8..2,
        option::of(0_u8..3),
        0_u8..3,
        -1..=1,
        1_u32..4,
        prop::bool::weighted(0.1),
    )
        .prop_map(
            |(again, key, content, submitter, repository, priority, max_attempts, held)| CreateChoice {
                again,
                key,
                content,
                submitter,
                repository,
                priority,
                max_attempts,
                held,
            },
        )
}

fn claim() -> impl Strategy<Value = ClaimChoice> {
    let limit = || option::weighted(0.3, 0_u32..4);
    (
        0_u8..3,
        0_u32..4,
        0_u32..3,
        option::weighted(0.15, 0_usize..5),
        [limit(), limit(), limit()],
    )
        .prop_map(|(worker, limit, takeovers, only, limits)| ClaimChoice {
            worker,
            limit,
            takeovers,
            only,
            limits,
        })
}

fn event() -> impl Strategy<Value = EventChoice> {
    (
        0_usize..3,
        any::<bool>(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.4),
        option::weighted(0.2, any::<bool>()),
    )
        .prop_map(|(messages, transcript, usage, result, checkpoint)| EventChoice {
            messages,
            transcript,
            usage,
            result,
            checkpoint,
        })
}

fn answer() -> impl Strategy<Value = AnswerChoice> {
    (
        0_usize..5,
        option::weighted(0.4, 0_usize..4),
        any::<bool>(),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(session, question, by_name, plan)| AnswerChoice {
            session,
            question,
            by_name,
            plan,
        })
}

/// Any of them; those that lead further more often.
pub(super) fn step() -> impl Strategy<Value = Step> {
    let first = prop_oneof![1 => Just(-2_i8), 2 => Just(-1), 3 => Just(0), 12 => Just(1), 1 => Just(2)];
    let age = || option::of(prop::bool::weighted(0.3));
    prop_oneof![
        4 => create().prop_map(Step::Create),
        7 => claim().prop_map(Step::Claim),
        1 => (0_u8..3, vec(fence(), 0..4)).prop_map(|(worker, fences)| Step::Renew(worker, fences)),
        3 => (0_u8..3, option::of(vec(fence(), 0..4))).prop_map(|(worker, only)| Step::Release(worker, only)),
        2 => fence().prop_map(Step::Start),
        7 => (fence(), first, vec(event(), 0..4))
            .prop_map(|(fence, first, events)| Step::Record(fence, first, events)),
        2 => (fence(), 0_usize..3).prop_map(|(fence, number)| Step::AddMessages(fence, number)),
        1 => (fence(), 0_u8..2).prop_map(|(fence, name)| Step::StoreArtifact(fence, name)),
        1 => fence().prop_map(Step::SetPullRequest),
        5 => (fence(), end(), 0_usize..2).prop_map(|(fence, end, messages)| Step::Finish(fence, end, messages)),
        2 => (0_usize..6).prop_map(Step::Cancel),
        4 => answer().prop_map(Step::Answer),
        3 => (0_usize..6, 1_u32..3).prop_map(|(back, attempts)| Step::Say(back, attempts)),
        1 => (0_usize..3).prop_map(Step::Remind),
        1 => (0_usize..3).prop_map(Step::GiveUp),
        1 => prop_oneof![Just(1_u32), Just(100)].prop_map(Step::Due),
        1 => (0_usize..9).prop_map(Step::MarkRead),
        1 => ([age(), age(), age()], prop_oneof![Just(1_u32), Just(2), Just(100)])
            .prop_map(|(ages, limit)| Step::Reap(ages, limit)),
        1 => (0_usize..6, 0_u64..5, 0_u32..5).prop_map(|(back, after, limit)| Step::Messages(back, after, limit)),
    ]
}
