//! The YAML between the two fences.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use super::error::{PlanError, PlanProblem};
use super::escalation::EscalationOptions;
use super::limits::{Limits, within};
use super::repository::{Repository, RepositoryPolicy};
use super::value::{EXPECTED, checked};
use super::{Agent, MAX_SUBMODULES, Network, Plan, PullRequestOptions};

/// A source, cut at its fences.
pub(super) struct Parts<'a> {
    yaml: &'a str,
    pub(super) body: &'a str,
}

/// Cuts a source (without its byte order mark) at the fences.
pub(super) fn split(source: &str) -> Result<Parts<'_>, PlanError> {
    let mut lines = source.split_inclusive('\n');
    let Some(first) = lines.next().filter(|line| is_fence(line)) else {
        return Err(PlanError {
            line: Some(1),
            column: Some(1),
            ..PlanProblem::NoFrontmatter.into()
        });
    };
    let start = first.len();
    let mut end = start;
    for line in lines {
        if is_fence(line) {
            return Ok(Parts {
                yaml: &source[start..end],
                body: &source[end + line.len()..],
            });
        }
        end += line.len();
    }
    Err(PlanError::at(PlanProblem::UnclosedFrontmatter, 1, 1))
}

fn is_fence(line: &str) -> bool {
    line.trim_end() == "---"
}

/// The keys of a plan as they are written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Frontmatter {
    pub(super) repo: Option<String>,
    #[serde(default)]
    submodules: Vec<String>,
    lfs: Option<bool>,
    pub(super) title: Option<String>,
    #[serde(default, deserialize_with = "branch_name")]
    pub(super) base: Option<String>,
    #[serde(default, deserialize_with = "branch_name")]
    pub(super) branch: Option<String>,
    #[serde(default, deserialize_with = "directory")]
    path: Option<String>,
    #[serde(default, deserialize_with = "agent")]
    agent: Agent,
    #[serde(default, deserialize_with = "word")]
    model: Option<String>,
    #[serde(default, deserialize_with = "word")]
    image: Option<String>,
    #[serde(default)]
    setup: Vec<String>,
    #[serde(default)]
    verify: Vec<String>,
    #[serde(default)]
    limits: Limits,
    #[serde(default, deserialize_with = "priority")]
    priority: i32,
    #[serde(default)]
    escalation: EscalationOptions,
    #[serde(default)]
    network: Network,
    #[serde(default)]
    pull_request: PullRequestOptions,
}

impl Frontmatter {
    pub(super) fn parse(parts: &Parts<'_>) -> Result<Self, PlanError> {
        if parts.yaml.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_yaml::from_str(parts.yaml).map_err(|error| located(&error))
    }

    /// The listed submodules. The gateway has one credential for a host, and a plan opens one host: its repository's.
    pub(super) fn submodules(
        &self,
        repository: &Repository,
        policy: &RepositoryPolicy,
    ) -> Result<Vec<Repository>, PlanProblem> {
        let count = self.submodules.len();
        if count > MAX_SUBMODULES {
            let problem = format!("submodules: expected at most {MAX_SUBMODULES} repositories, got {count}");
            return Err(PlanProblem::InvalidValue(problem));
        }
        let checked = self.submodules.iter().map(|named| {
            let submodule = Repository::parse(named, policy)?;
            match (repository.authority(), submodule.authority()) {
                (Some(host), Some(other)) if host.eq_ignore_ascii_case(&other) => Ok(submodule),
                (host, _) => {
                    let host = host.unwrap_or_else(|| "none, since `repo` is a directory".to_owned());
                    Err(PlanProblem::InvalidValue(format!(
                        "submodules: expected repositories on the host of `repo` ({host}), got {named:?}"
                    )))
                }
            }
        });
        checked.collect()
    }

    pub(super) fn into_plan(
        self,
        (repository, submodules): (Repository, Vec<Repository>),
        title: String,
        task: String,
    ) -> Plan {
        Plan {
            repository,
            submodules,
            large_files: self.lfs.unwrap_or(true),
            title,
            base: self.base,
            branch: self.branch,
            path: self.path,
            agent: self.agent,
            model: self.model,
            image: self.image,
            setup: self.setup,
            verify: self.verify,
            limits: self.limits,
            priority: self.priority,
            escalation: self.escalation,
            network: self.network,
            pull_request: self.pull_request,
            task,
        }
    }
}

/// Turns the YAML library's error into ours: the key and the nearest known one out of serde's own wording.
fn located(error: &serde_yaml::Error) -> PlanError {
    let text = error.to_string();
    // Its place is told by line and column instead.
    let message = text.split(" at line ").next().unwrap_or(&text).to_owned();
    let problem = if let Some((_, rest)) = message.split_once("unknown field `") {
        let mut names = rest.split('`');
        let key = names.next().unwrap_or_default().to_owned();
        let known: Vec<&str> = names.skip(1).step_by(2).collect();
        let nearest = nearest(&key, &known);
        PlanProblem::UnknownKey { key, nearest }
    } else if message.contains("invalid type")
        || message.contains("invalid value")
        || message.contains(EXPECTED)
    {
        PlanProblem::InvalidValue(in_plain_words(&message.replace(EXPECTED, "expected ")))
    } else {
        PlanProblem::Syntax(message)
    };
    match error.location() {
        // The opening fence is the first line of the plan.
        Some(place) => PlanError::at(problem, place.line() + 1, place.column()),
        None => problem.into(),
    }
}

/// Says what the YAML library says in the words of a plan.
fn in_plain_words(message: &str) -> String {
    [
        (
            "expected a sequence",
            "expected a list, such as `[\"make test\"]`",
        ),
        (
            "expected struct Frontmatter",
            "expected keys with their values, such as `repo: https://…`",
        ),
        (
            "expected struct Limits",
            "expected keys with their values, such as `{ wall: 1h }`",
        ),
        (
            "expected struct EscalationOptions",
            "expected keys with their values, such as `{ deadline: 8h, then: proceed }`",
        ),
        (
            "expected struct Network",
            "expected keys with their values, such as `{ allow: [\"example.com\"] }`",
        ),
        (
            "expected struct PullRequestOptions",
            "expected keys with their values, such as `{ draft: true }`",
        ),
        ("expected u32", "expected a whole number"),
        ("expected i32", "expected a whole number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected `true` or `false`"),
    ]
    .into_iter()
    .fold(message.to_owned(), |text, (theirs, ours)| {
        text.replace(theirs, ours)
    })
}

fn nearest(key: &str, known: &[&str]) -> Option<String> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), *candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(similarity, _)| *similarity > 0.6)
        .map(|(_, candidate)| candidate.to_owned())
}

fn branch_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(
        deserializer,
        "a branch name as git accepts it, such as `fabrica/idempotency`",
        |name| {
            // The rules of `git check-ref-format`, from a library that git's own test cases cover.
            let valid = gix_validate::reference::name_partial(name.into()).is_ok();
            let plain = !name.starts_with('-') && !name.starts_with("refs/") && name != "HEAD" && name != "@";
            (valid && plain).then(|| name.to_owned())
        },
    )
}

/// How long the path of a directory may be, in bytes.
const MAX_DIRECTORY: usize = 1_024;

fn directory<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(
        deserializer,
        "a directory of the repository, relative to its root and without `.`, `..` and `.git`, such as `services/billing`",
        |path| {
            // `docs/` is how a shell completes it.
            let path = path.strip_suffix('/').unwrap_or(path);
            let plain = |name: &str| {
                !name.is_empty() && !matches!(name, "." | "..") && !name.eq_ignore_ascii_case(".git")
            };
            let valid =
                path.len() <= MAX_DIRECTORY && !path.contains(char::is_control) && path.split('/').all(plain);
            valid.then(|| path.to_owned())
        },
    )
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    let priority = within(i32::deserialize(deserializer)?, &(-100..=100), "for `priority`")?;
    Ok(priority.unwrap_or_default())
}

fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    checked(
        deserializer,
        "a name without spaces that does not begin with `-`",
        |text| {
            let odd = text.is_empty()
                || text.starts_with('-')
                || text.contains(|c: char| c.is_control() || c.is_whitespace());
            (!odd).then(|| text.to_owned())
        },
    )
}

fn agent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Agent, D::Error> {
    struct AgentVisitor;

    #[derive(Deserialize)]
    #[serde(field_identifier, rename_all = "snake_case")]
    enum Key {
        Command,
    }

    impl<'de> Visitor<'de> for AgentVisitor {
        type Value = Agent;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("`claude` or `{ command: [program, argument, …] }`")
        }

        fn visit_str<E: de::Error>(self, name: &str) -> Result<Agent, E> {
            match name {
                "claude" => Ok(Agent::Claude),
                _ => Err(E::invalid_value(de::Unexpected::Str(name), &self)),
            }
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Agent, A::Error> {
            let Some(Key::Command) = map.next_key()? else {
                return Err(de::Error::missing_field("command"));
            };
            let argv: Vec<String> = map.next_value()?;
            let runnable = argv.first().is_some_and(|program| !program.is_empty());
            if !runnable || argv.iter().any(|argument| argument.contains('\0')) {
                return Err(de::Error::custom(format!(
                    "{EXPECTED}a program to run, got an empty command"
                )));
            }
            match map.next_key::<Key>()? {
                None => Ok(Agent::Command(argv)),
                Some(_) => Err(de::Error::duplicate_field("command")),
            }
        }
    }

    deserializer.deserialize_any(AgentVisitor)
}
