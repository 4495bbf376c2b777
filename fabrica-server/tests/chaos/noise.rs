//! How busy the machine is, so that a promised time can be held against a machine that does other things, too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::{CancellationToken, DropGuard};

/// How many of the last samples count.
const SAMPLES: usize = 20;
/// The pause between two samples.
const PAUSE: Duration = Duration::from_millis(500);

/// How far a promised time is stretched at most.
const MOST: f64 = 4.0;

/// Measures how much longer the same piece of work takes than it took when the machine was quietest.
#[derive(Debug)]
pub(crate) struct Noise {
    heard: Arc<Mutex<Heard>>,
    _end: DropGuard,
}

#[derive(Debug, Default)]
struct Heard {
    quietest: Option<Duration>,
    last: VecDeque<Duration>,
    worst: f64,
}

impl Noise {
    /// Listens from now on.
    pub(crate) fn listen() -> Self {
        let heard = Arc::<Mutex<Heard>>::default();
        let end = CancellationToken::new();
        let (hearing, ended) = (heard.clone(), end.clone());
        std::thread::spawn(move || {
            while !ended.is_cancelled() {
                let took = work();
                hearing.lock().unwrap_or_else(PoisonError::into_inner).take(took);
                std::thread::sleep(PAUSE);
            }
        });
        Self {
            heard,
            _end: end.drop_guard(),
        }
    }

    /// How many times slower than at its quietest the machine was in the last seconds: from 1 to [`MOST`], so that a
    /// promised time stays one.
    pub(crate) fn now(&self) -> f64 {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slowness()
            .min(MOST)
    }

    /// The same for the busiest seconds so far.
    pub(crate) fn worst(&self) -> f64 {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .worst
            .max(1.0)
    }
}

impl Heard {
    fn take(&mut self, took: Duration) {
        self.quietest = Some(self.quietest.map_or(took, |known| known.min(took)));
        self.last.push_back(took);
        if self.last.len() > SAMPLES {
            self.last.pop_front();
            self.worst = self.worst.max(self.slowness());
        }
    }

    fn slowness(&self) -> f64 {
        let Some(quietest) = self.quietest else { return 1.0 };
        let count = u32::try_from(self.last.len().max(1)).unwrap_or(1);
        let mean = self.last.iter().sum::<Duration>() / count;
        (mean.as_secs_f64() / quietest.as_secs_f64()).max(1.0)
    }
}

/// A piece of work that takes some milliseconds: long enough to be interrupted by whoever else wants the processor.
fn work() -> Duration {
    let began = Instant::now();
    let mut number = 1_u64;
    for step in 0..1_000_000_u64 {
        number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step));
    }
    std::hint::black_box(number);
    began.elapsed()
}
