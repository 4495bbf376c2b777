use std::collections::HashMap;
use std::time::Duration;

use fabrica_core::ids::SessionId;
use futures::FutureExt as _;
use futures::future::join_all;
use tokio::sync::mpsc;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Parcel {
    key: u128,
    number: u32,
    bytes: usize,
}

impl Item for Parcel {
    fn key(&self) -> Uuid {
        Uuid::from_u128(self.key)
    }

    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// What happens to a group.
enum Fate {
    Written,
    /// Refused if it holds that number.
    Refused(u32),
    Lost,
    Panic,
}

type Group = Vec<(u128, u32)>;

/// Tells of every group and waits for its fate.
struct Scripted {
    groups: mpsc::UnboundedSender<(Group, oneshot::Sender<Fate>)>,
}

impl Writer for Scripted {
    type Item = Parcel;
    type Answer = u32;

    async fn write(&mut self, parcels: &[&Parcel]) -> Result<Vec<Settled<u32>>, sqlx::Error> {
        let (sender, fate) = oneshot::channel();
        let group = parcels.iter().map(|parcel| (parcel.key, parcel.number)).collect();
        self.groups.send((group, sender)).unwrap();
        match fate.await.unwrap() {
            Fate::Refused(number) if parcels.iter().any(|parcel| parcel.number == number) => {
                Err(sqlx::Error::RowNotFound)
            }
            Fate::Written | Fate::Refused(_) => {
                Ok(parcels.iter().map(|parcel| Some(Ok(parcel.number))).collect())
            }
            Fate::Lost => Err(sqlx::Error::WorkerCrashed),
            Fate::Panic => panic!("as the script says"),
        }
    }

    fn alone(&self, parcel: Parcel) -> impl Future<Output = Result<u32, StoreError>> + Send + 'static {
        std::future::ready(Err(StoreError::NoSuchSession(SessionId::from_uuid(parcel.key()))))
    }
}

type Groups = mpsc::UnboundedReceiver<(Group, oneshot::Sender<Fate>)>;

fn lane() -> (Arc<Lane<Scripted>>, Groups) {
    lane_with(ROOM)
}

fn lane_with(room: usize) -> (Arc<Lane<Scripted>>, Groups) {
    let (groups, receiver) = mpsc::unbounded_channel();
    let lane = Lane::with_room(room, move || Scripted {
        groups: groups.clone(),
    });
    (Arc::new(lane), receiver)
}

fn parcel(key: u128, number: u32) -> Parcel {
    Parcel {
        key,
        number,
        bytes: 1,
    }
}

async fn next(groups: &mut Groups) -> (Group, oneshot::Sender<Fate>) {
    tokio::time::timeout(PATIENCE, groups.recv())
        .await
        .unwrap()
        .unwrap()
}

/// Gives every group the same fate, until nothing comes any more.
fn all(mut groups: Groups, fate: impl Fn() -> Fate + Send + 'static) {
    tokio::spawn(async move {
        while let Some((_, group)) = groups.recv().await {
            group.send(fate()).unwrap_or_else(|_| panic!("the writer waits"));
        }
    });
}

/// The first is on its way alone; the rest wait together.
async fn queued(
    lane: &Arc<Lane<Scripted>>,
    groups: &mut Groups,
    parcels: Vec<Parcel>,
) -> (
    oneshot::Sender<Fate>,
    HashMap<u32, tokio::task::JoinHandle<Result<u32, StoreError>>>,
) {
    let mut answers = HashMap::new();
    let mut first = None;
    for parcel in parcels {
        let (lane, number) = (lane.clone(), parcel.number);
        answers.insert(number, tokio::spawn(async move { lane.write(parcel).await }));
        // In this order.
        tokio::task::yield_now().await;
        if first.is_none() {
            first = Some(next(groups).await.1);
        }
    }
    (first.unwrap(), answers)
}

#[tokio::test]
async fn what_gathers_meanwhile_is_written_together_and_each_key_in_order() {
    let (lane, mut groups) = lane();
    let parcels = vec![
        parcel(1, 1),
        parcel(1, 2),
        parcel(1, 3),
        parcel(2, 4),
        parcel(3, 5),
    ];
    let (first, answers) = queued(&lane, &mut groups, parcels).await;
    first.send(Fate::Written).ok().unwrap();
    let (group, fate) = next(&mut groups).await;
    assert_eq!(group, [(1, 2), (2, 4), (3, 5)]);
    fate.send(Fate::Written).ok().unwrap();
    let (group, fate) = next(&mut groups).await;
    assert_eq!(group, [(1, 3)]);
    fate.send(Fate::Written).ok().unwrap();
    for (number, answer) in answers {
        assert_eq!(answer.await.unwrap().unwrap(), number);
    }
}

#[tokio::test]
async fn a_refused_item_is_written_alone_and_harms_no_other() {
    let (lane, mut groups) = lane();
    let parcels = (0..20).map(|number| parcel(number.into(), number)).collect();
    let (first, answers) = queued(&lane, &mut groups, parcels).await;
    first.send(Fate::Written).ok().unwrap();
    all(groups, || Fate::Refused(13));
    for (number, answer) in answers {
        let answer = answer.await.unwrap();
        if number == 13 {
            assert!(matches!(answer, Err(StoreError::NoSuchSession(_))), "{answer:?}");
        } else {
            assert_eq!(answer.unwrap(), number);
        }
    }
}

#[tokio::test]
async fn a_lost_group_is_told_to_each_of_its_callers_and_the_lane_goes_on() {
    let (lane, mut groups) = lane();
    let parcels = (0..5).map(|number| parcel(number.into(), number)).collect();
    let (first, answers) = queued(&lane, &mut groups, parcels).await;
    first.send(Fate::Written).ok().unwrap();
    next(&mut groups).await.1.send(Fate::Lost).ok().unwrap();
    all(groups, || Fate::Written);
    for (number, answer) in answers {
        match answer.await.unwrap() {
            Ok(_) => assert_eq!(number, 0),
            Err(error) => assert!(error.retryable(), "{error}"),
        }
    }
    assert_eq!(lane.write(parcel(1, 1)).await.unwrap(), 1);
}

#[tokio::test]
async fn a_panic_is_told_to_the_callers_and_the_lane_goes_on() {
    let (lane, mut groups) = lane();
    let (first, answers) = queued(&lane, &mut groups, vec![parcel(1, 1), parcel(2, 2)]).await;
    first.send(Fate::Panic).ok().unwrap();
    for answer in answers.into_values() {
        assert!(answer.await.unwrap().unwrap_err().retryable());
    }
    all(groups, || Fate::Written);
    assert_eq!(lane.write(parcel(1, 1)).await.unwrap(), 1);
}

#[tokio::test]
async fn callers_wait_while_the_lane_is_full() {
    const SIZE: usize = 40 * SMALLEST;
    // By their bytes; by their number; one that is larger than all there is.
    for (bytes, room) in [(4 * SMALLEST, 10), (1, 40), (2 * SIZE, 1)] {
        let (lane, mut groups) = lane_with(SIZE);
        let items = room + 10;
        let mut callers: Vec<_> = (0..items)
            .map(|number| {
                let number = u32::try_from(number).unwrap();
                let parcel = Parcel {
                    key: number.into(),
                    number,
                    bytes,
                };
                Box::pin(lane.write(parcel))
            })
            .collect();
        for caller in &mut callers {
            assert!(caller.now_or_never().is_none());
        }
        assert_eq!(lane.room.available_permits(), 0, "the lane is full");
        // Nobody is answered yet, so nobody else came in.
        let (group, fate) = next(&mut groups).await;
        assert_eq!(group[0], (0, 0));
        assert!(
            callers[room].as_mut().now_or_never().is_none(),
            "the one after the last that fits waits"
        );
        fate.send(Fate::Written).ok().unwrap();
        all(groups, || Fate::Written);
        let answers = tokio::time::timeout(PATIENCE, join_all(callers)).await.unwrap();
        assert_eq!(answers.into_iter().filter_map(Result::ok).count(), items);
        assert_eq!(lane.room.available_permits(), SIZE);
    }
}

#[tokio::test]
async fn a_group_is_no_larger_than_it_may_be_and_a_larger_item_goes_alone() {
    let (lane, mut groups) = lane();
    let sized = |number: u32, bytes| Parcel {
        key: number.into(),
        number,
        bytes,
    };
    let half = GROUP_BYTES / 2;
    let parcels = vec![
        sized(0, 1),
        sized(1, half),
        sized(2, half),
        sized(3, 1),
        sized(4, 3 * GROUP_BYTES),
        sized(5, 1),
    ];
    let (first, answers) = queued(&lane, &mut groups, parcels).await;
    first.send(Fate::Written).ok().unwrap();
    for expected in [vec![1, 2], vec![3], vec![4], vec![5]] {
        let (group, fate) = next(&mut groups).await;
        assert_eq!(
            group.iter().map(|(_, number)| *number).collect::<Vec<_>>(),
            expected
        );
        fate.send(Fate::Written).ok().unwrap();
    }
    for answer in answers.into_values() {
        answer.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_task_ends_with_the_lane_and_writes_what_waits_before() {
    let (lane, mut groups) = lane();
    let (first, answers) = queued(&lane, &mut groups, vec![parcel(1, 1), parcel(2, 2)]).await;
    lane.close();
    assert!(lane.write(parcel(3, 3)).await.unwrap_err().retryable());
    first.send(Fate::Written).ok().unwrap();
    next(&mut groups).await.1.send(Fate::Written).ok().unwrap();
    for (number, answer) in answers {
        assert_eq!(answer.await.unwrap().unwrap(), number);
    }
    drop(lane);
    // The task holds the last sender.
    assert!(
        tokio::time::timeout(PATIENCE, groups.recv())
            .await
            .unwrap()
            .is_none()
    );
}
