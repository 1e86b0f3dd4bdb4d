//! MLPerf's log: a line an event, `:::MLLOG {"namespace": …, "time_ms": …, "event_type": …, "key": …, "value": …, "metadata": …}`.
//!
//! ```text
//! init_start  submission_*  cache_clear  init_stop  run_start  the settings
//! block_start  steps  block_stop  eval_start  eval_accuracy  eval_stop  block_start …  run_stop
//! ```
//! Every line is written when it happens. `samples_count`: samples trained on by then.
use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

pub struct Mllog {
    path: PathBuf,
    file: File,
    /// Whether a block of steps has begun that has not ended.
    in_block: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    namespace: &'a str,
    time_ms: u64,
    event_type: &'a str,
    key: &'a str,
    value: Value,
    metadata: Value,
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

impl Mllog {
    /// A new file; of a run that goes on, the same one. Makes its folder.
    pub fn open(path: &Path, goes_on: bool) -> Result<Mllog> {
        let mut options = File::options();
        options.create(true).write(true).append(goes_on).truncate(!goes_on);
        let made = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| options.open(path));
        let file = made.map_err(|e| trouble(path, &e))?;
        Ok(Mllog { path: path.to_owned(), file, in_block: false })
    }

    #[track_caller]
    pub fn event(&mut self, key: &str, value: Value, time_ms: u64) -> Result<()> {
        self.write(time_ms, "POINT_IN_TIME", key, value, json!({}))
    }

    #[track_caller]
    pub fn starts(&mut self, key: &str, time_ms: u64) -> Result<()> {
        self.write(time_ms, "INTERVAL_START", key, Value::Null, json!({}))
    }

    /// Whoever reads `files` files of data next reads them from where they lie.
    pub fn cleared(&mut self, time_ms: u64, files: usize) -> Result<()> {
        self.write(time_ms, "POINT_IN_TIME", "cache_clear", true.into(), json!({ "files": files }))
    }

    #[track_caller]
    pub fn stops(&mut self, key: &str, time_ms: u64) -> Result<()> {
        self.write(time_ms, "INTERVAL_END", key, Value::Null, json!({}))
    }

    pub fn block(&mut self, samples: u64) -> Result<()> {
        if std::mem::replace(&mut self.in_block, true) {
            return Ok(());
        }
        self.write(now_ms(), "INTERVAL_START", "block_start", Value::Null, json!({ "samples_count": samples }))
    }

    fn end_block(&mut self, samples: u64) -> Result<()> {
        if !std::mem::take(&mut self.in_block) {
            return Ok(());
        }
        self.write(now_ms(), "INTERVAL_END", "block_stop", Value::Null, json!({ "samples_count": samples }))
    }

    pub fn evaluating(&mut self, samples: u64) -> Result<()> {
        self.end_block(samples)?;
        self.write(now_ms(), "INTERVAL_START", "eval_start", Value::Null, json!({ "samples_count": samples }))
    }

    /// `loss` is what these rules call accuracy: nats per token on the held-out corpus.
    pub fn evaluated(&mut self, samples: u64, loss: f64) -> Result<()> {
        self.write(now_ms(), "POINT_IN_TIME", "eval_accuracy", loss.into(), json!({ "samples_count": samples }))?;
        self.write(now_ms(), "INTERVAL_END", "eval_stop", Value::Null, json!({ "samples_count": samples }))
    }

    /// `success`: the target, if there is one, was reached.
    pub fn end(&mut self, samples: u64, success: bool) -> Result<()> {
        self.end_block(samples)?;
        let metadata = json!({ "samples_count": samples, "status": if success { "success" } else { "aborted" } });
        self.write(now_ms(), "INTERVAL_END", "run_stop", Value::Null, metadata)
    }

    #[track_caller]
    fn write(&mut self, time_ms: u64, event_type: &str, key: &str, value: Value, mut metadata: Value) -> Result<()> {
        let from = Location::caller();
        (metadata["file"], metadata["lineno"]) = (from.file().into(), from.line().into());
        let event = Event { namespace: "", time_ms, event_type, key, value, metadata };
        let line = format!(":::MLLOG {}\n", serde_json::to_string(&event).expect("numbers and text"));
        self.file.write_all(line.as_bytes()).map_err(|e| trouble(&self.path, &e))
    }
}

fn trouble(path: &Path, e: &std::io::Error) -> Error {
    Error::Failed(format!("{}: cannot be written: {e}", path.display()))
}
