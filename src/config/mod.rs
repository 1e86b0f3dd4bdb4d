//! What a run is told: as typed ([`Settings`]) → as meant ([`Run`]).
//!
//! ```text
//! keys.rs       the table: section, name, option, kind, default, help     -> options, file, --set, help, printed text
//! value.rs      text or TOML -> a value that fits its key
//! settings.rs   defaults < run.toml < --set < options, and who said what
//! architecture  [model]: a preset or a config.json, resized
//! resolve.rs    Settings -> Run, with the checks that look at several keys
//! ```
//! [`Run::to_toml`] prints the whole; fed back as `--config` it gives the same run.
mod architecture;
mod keys;
mod options;
mod resolve;
mod run;
mod settings;
mod value;

pub use architecture::preset_names;
pub use keys::{Default, KEYS, Key, Kind, Range, SECTIONS, nearest};
pub use options::{add, read};
pub use resolve::{Purpose, resolve};
pub use run::*;
pub use settings::Settings;
pub use value::{Value, seconds};
