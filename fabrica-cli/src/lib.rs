//! The fabrica command, and what it shares with the service and the tests.
//!
//! [`assembly`] turns options and environment into a working orchestrator; [`rehearsal`] plays everything that Fabrica
//! talks to, on loopback; [`redact`] takes credentials out of transcripts. The command itself is the binary of this
//! package.
//!
//! ```
//! use fabrica_cli::assembly::{Directories, Environment, DataArgs};
//!
//! let arguments = DataArgs { data_directory: Some("/srv/fabrica".into()), ..DataArgs::default() };
//! let directories = Directories::resolve(&arguments, &Environment::default());
//! assert_eq!(directories.data, std::path::Path::new("/srv/fabrica"));
//! ```

pub mod assembly;
pub mod redact;
pub mod rehearsal;
