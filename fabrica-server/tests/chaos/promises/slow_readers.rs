//! Two hundred readers take a transcript at a byte a second: they cost the server little, they are given up, they can go on,
//! and nobody else notices.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::making;
use crate::agent::Agent;
use crate::database::{Numbered, SessionRow};
use crate::dice::Dice;
use crate::oracle;
use crate::process::{connections, peak_memory};
use crate::report::Tally;
use crate::surroundings::TOKEN;
use crate::world::{Suite, World};

const READERS: u32 = 200;
/// How much more memory the server may hold at its peak for each of them, in MiB: about what a page has.
const MEMORY: u64 = 1;
/// How long they may keep their connections: longer than the server waits for them.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long anybody else may be kept waiting meanwhile.
const OTHERS: Duration = Duration::from_secs(5);
/// How many connections others may have meanwhile.
const OTHER: usize = 5;
/// What all of them ask for: as much as there is.
const PAGE: u32 = 200;

pub(super) async fn test(suite: &Suite, tally: &Tally) -> Result<()> {
    tally.note("of pages: there are no streams yet");
    let [docker, _] = suite.engines();
    let settings = [("FABRICA_CONCURRENCY", "2")];
    let world = World::begin(suite, making(suite, "slow-readers", docker, 1, &settings)).await?;
    let mut dice = Dice::new(suite.seed, "slow readers");
    let id = talkative(&world, &mut dice).await?;
    for _ in 0..suite.of(1, 3) {
        read_slowly(suite, tally, &world, (id, &mut dice)).await?;
    }
    oracle::audit(&world, tally).await?;
    world.end().await
}

/// A session whose transcript has several pages.
async fn talkative(world: &World, dice: &mut Dice) -> Result<Uuid> {
    let talk = "n=0; while [ $n -lt 120 ]; do head -c 20000 /dev/urandom | base64 -w 0; echo; n=$((n+1)); sleep 0.02; done";
    let agent = Agent::new(dice, 10, "").before(talk);
    let id = world.submit(&agent, "").await?;
    let (row, ended) = world
        .until(id, Duration::from_mins(5), SessionRow::is_terminal)
        .await?;
    ensure!(ended, "{row:?}");
    Ok(id)
}

async fn read_slowly(
    suite: &Suite,
    tally: &Tally,
    world: &World,
    (id, dice): (Uuid, &mut Dice),
) -> Result<()> {
    let server = world.replica(0).await.id().context("it runs")?;
    let before = peak_memory(server).unwrap_or(0);
    let done = CancellationToken::new();
    let address = world.address(0)?;
    let readers = (0..READERS).map(|_| SlowReader::begin(address, id));
    let readers = try_join_all(readers).await?;
    let open = connections(address.port())?;
    tally.check(open >= READERS as usize, || {
        format!("only {open} connections are seen")
    });
    tally.faults("readers of a page at a byte a second", READERS.into());
    let began = Instant::now();
    let reading = async {
        let mut readers = readers;
        while !done.is_cancelled() {
            for reader in &mut readers {
                reader.take_a_byte().await;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let given_up = async {
        let limit = suite.promised(PATIENCE);
        while connections(address.port())? > OTHER && began.elapsed() < limit {
            sleep(Duration::from_millis(250)).await;
        }
        tally.took("slow readers given up", began.elapsed());
        let left = connections(address.port())?;
        tally.check(left <= OTHER, || {
            format!("{left} connections are left of {READERS} slow readers")
        });
        done.cancel();
        anyhow::Ok(())
    };
    let others = async {
        // Works meanwhile, and is read.
        let agent = Agent::new(dice, 20, "0.05");
        let other = world.submit(&agent, "").await?;
        while !done.is_cancelled() {
            undisturbed(suite, tally, world, other).await?;
            sleep(Duration::from_millis(250)).await;
        }
        let (row, ended) = world
            .until(other, Duration::from_mins(5), SessionRow::is_terminal)
            .await?;
        tally.check(ended, || format!("beside slow readers: {row:?}"));
        anyhow::Ok(())
    };
    let (_, given_up, others) = tokio::join!(reading, given_up, others);
    given_up?;
    others?;
    let peak = peak_memory(server).unwrap_or(0);
    tally.number("peak memory of the server in MiB", peak);
    tally.check(peak < before + MEMORY * u64::from(READERS), || {
        format!("the server held {peak} MiB, and {before} MiB before the slow readers")
    });
    // They come back, and take it as others do.
    let stored = world.database.numbers(id, Numbered::Transcript).await?;
    let mut seen: Vec<i64> = Vec::new();
    let mut pages = 0;
    loop {
        let after = seen.last().copied().unwrap_or(0);
        let page = world.page(0, id, Numbered::Transcript, (after, PAGE)).await?;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
        pages += 1;
    }
    tally.check(seen == stored, || format!("{seen:?} was read of {stored:?}"));
    ensure!(pages > 2, "what is read has only {pages} pages");
    Ok(())
}

/// Asks for a little, and expects it soon.
async fn undisturbed(suite: &Suite, tally: &Tally, world: &World, id: Uuid) -> Result<()> {
    let health = world.health(0).await;
    let asked = Instant::now();
    let page = world.page(0, id, Numbered::Messages, (0, PAGE)).await;
    for (what, took) in [
        ("/health", health),
        ("a page of messages", page.map(|_| asked.elapsed())),
    ] {
        match took {
            Ok(took) => {
                tally.took(&format!("{what} beside slow readers"), took);
                tally.check(took < suite.promised(OTHERS), || format!("{what} took {took:?}"));
            }
            Err(error) => tally.broken(format!("{what} beside slow readers: {error:#}")),
        }
    }
    Ok(())
}

/// One who has asked for a page and takes it at a byte a second.
struct SlowReader(TcpStream);

impl SlowReader {
    async fn begin(address: SocketAddr, id: Uuid) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4 * 1024)?;
        let mut connection = socket.connect(address).await?;
        let path = format!("/sessions/{id}/transcript?limit={PAGE}");
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        connection.write_all(request.as_bytes()).await?;
        Ok(Self(connection))
    }

    /// Takes a byte if one is there. That the server hung up is seen elsewhere: until then the kernel has more to give.
    async fn take_a_byte(&mut self) {
        let mut byte = [0];
        let _ = tokio::time::timeout(Duration::from_millis(1), self.0.read(&mut byte)).await;
    }
}
