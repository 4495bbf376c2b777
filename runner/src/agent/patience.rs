//! A model that is overloaded or limits the rate is asked again, for as long as the attempt may take: the provider has to
//! mend it, and all that the agent knows is worth the wait. Whoever watches is told of every pause.

use std::time::Duration;

use fabrica_core::failure::Failure;
use fabrica_core::protocol::Usage;
use tokio::time::sleep;

use super::{Start, Worked, claude, unprepared};
use crate::agent::Claude;

/// The shortest pause: whoever asks for none would ask without end.
const SHORTEST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_mins(2);

/// What the agent is told when it is started again in the middle of its work.
const GO_ON: &str = "The model could not be asked for a while, so you were interrupted. Nothing else has changed: go on with the \
    task where you were.";

/// Pauses that grow.
#[derive(Debug)]
struct Pauses {
    first: Duration,
    next: Duration,
}

impl Pauses {
    fn new(first: Duration) -> Self {
        let first = first.clamp(SHORTEST, LONGEST);
        Self { first, next: first }
    }

    /// The next pause; the first one again if the agent got on meanwhile.
    fn next(&mut self, got_on: bool) -> Duration {
        if got_on {
            self.next = self.first;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

/// Lets the agent work to an end that is not the model's momentary trouble.
pub(super) async fn work(
    start: Start<'_>,
    mut goes_on: bool,
    spent: Usage,
    mut prompt: String,
) -> Result<Worked, Failure> {
    let mut usage = Usage::default();
    let mut pauses = Pauses::new(Duration::from_secs(start.job.model_pause_seconds));
    loop {
        let run = claude(start, goes_on, spent.plus(usage))
            .work(prompt.clone())
            .await?;
        usage = usage.plus(run.usage);
        let failure = match run.outcome {
            Ok(summary) => return Ok(Worked { summary, usage }),
            // What it asked stands, whatever came of the model afterwards.
            Err(failure) if !passes(&failure) || start.asking.questions().read().is_some() => {
                return Err(failure);
            }
            Err(failure) => failure,
        };
        pause(start, &failure, pauses.next(run.usage.turns > 0)).await?;
        start.asking.begin().map_err(|error| unprepared(&error))?;
        if Claude::transcript(start.environment, start.job).is_some() {
            goes_on = true;
            GO_ON.clone_into(&mut prompt);
        }
    }
}

async fn pause(start: Start<'_>, failure: &Failure, pause: Duration) -> Result<(), Failure> {
    let trouble = if failure.code == "model.overloaded" {
        "is overloaded"
    } else {
        "limits the rate"
    };
    let message = format!(
        "The model API {trouble}. The agent waits {} s and asks again, up to the attempt's wall time",
        pause.as_secs_f64().ceil()
    );
    start.commands.reporter.progress("model", message).await;
    let over = async {
        sleep(pause).await;
        Ok(())
    };
    start.commands.stop.or(over).await
}

/// Whether it is over by itself, soon.
pub(super) fn passes(failure: &Failure) -> bool {
    matches!(failure.code.as_str(), "model.overloaded" | "model.rate_limited")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_minutes_and_begin_anew_when_the_agent_got_on() {
        let mut pauses = Pauses::new(Duration::from_secs(30));
        let seconds: Vec<_> = [false, false, false, false, true, false]
            .map(|got_on| pauses.next(got_on).as_secs())
            .into();
        assert_eq!(seconds, [30, 60, 120, 120, 30, 60]);
        assert_eq!(Pauses::new(Duration::ZERO).next(false), SHORTEST);
        let mut long = Pauses::new(Duration::from_hours(1));
        assert_eq!([long.next(false), long.next(true)], [LONGEST; 2]);
    }
}
