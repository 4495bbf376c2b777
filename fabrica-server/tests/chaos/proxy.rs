//! A line to the database that is cut in the worst moment: after a statement went out, before its answer comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::dice::Dice;

/// The line; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    cuts: Arc<AtomicU64>,
    /// One message in so many is the last one of its connection; 0 cuts nothing.
    rarity: Arc<AtomicU64>,
    /// Nothing gets through.
    severed: Arc<AtomicBool>,
    _end: DropGuard,
}

impl Proxy {
    /// Leads to the database on that port of the loopback.
    pub(crate) async fn start(target: u16, mut dice: Dice) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (cuts, rarity) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let end = CancellationToken::new();
        let guard = end.clone().drop_guard();
        let severed = Arc::<AtomicBool>::default();
        let (counted, rare, cut) = (cuts.clone(), rarity.clone(), severed.clone());
        tokio::spawn(async move {
            while let Some(Ok((inside, _))) = end.run_until_cancelled(listener.accept()).await {
                let line = Line {
                    dice: Dice::new(dice.next(), "line"),
                    cuts: counted.clone(),
                    rarity: rare.clone(),
                    severed: cut.clone(),
                };
                let end = end.clone();
                tokio::spawn(async move { end.run_until_cancelled(line.lead(inside, target)).await });
            }
        });
        Ok(Self {
            port,
            cuts,
            rarity,
            severed,
            _end: guard,
        })
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were cut.
    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::Relaxed)
    }

    /// Lets nothing through any more, or everything again.
    pub(crate) fn sever(&self, severed: bool) {
        self.severed.store(severed, Ordering::SeqCst);
    }

    pub(crate) fn cut_one_in(&self, messages: u64) {
        self.rarity.store(messages, Ordering::Relaxed);
    }
}

struct Line {
    dice: Dice,
    cuts: Arc<AtomicU64>,
    rarity: Arc<AtomicU64>,
    severed: Arc<AtomicBool>,
}

impl Line {
    async fn lead(mut self, mut inside: TcpStream, target: u16) {
        let Ok(mut outside) = TcpStream::connect(("127.0.0.1", target)).await else {
            return;
        };
        let (mut question, mut answer) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
        loop {
            tokio::select! {
                read = inside.read(&mut question) => match read {
                    Ok(length) if length > 0 => {
                        if self.severed.load(Ordering::SeqCst) {
                            return;
                        }
                        let text = &question[..length];
                        let last = self.is_last(text);
                        if last == Some(When::Before) || outside.write_all(text).await.is_err() {
                            return;
                        }
                        if last == Some(When::After) {
                            // The database does what it was told, and nobody hears of it.
                            sleep(Duration::from_millis(20)).await;
                            return;
                        }
                    }
                    _ => return,
                },
                read = outside.read(&mut answer) => match read {
                    Ok(length) if length > 0 => {
                        if self.severed.load(Ordering::SeqCst)
                            || inside.write_all(&answer[..length]).await.is_err() {
                            return;
                        }
                    }
                    _ => return,
                },
            }
        }
    }

    /// Commits are cut twenty times as often as anything else.
    fn is_last(&mut self, text: &[u8]) -> Option<When> {
        let rarity = usize::try_from(self.rarity.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let commit = text
            .windows(6)
            .any(|window| window.eq_ignore_ascii_case(b"commit"));
        let rarity = if commit { rarity.div_ceil(20) } else { rarity };
        if rarity == 0 || !self.dice.once_in(rarity) {
            return None;
        }
        self.cuts.fetch_add(1, Ordering::Relaxed);
        Some(if self.dice.once_in(4) {
            When::Before
        } else {
            When::After
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    Before,
    After,
}
