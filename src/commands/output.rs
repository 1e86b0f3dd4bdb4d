//! What a run leaves for people while it goes on: lines, the progress bar, `metrics.h5`.
use crate::commands::energy::Meter;
use crate::commands::gauge::Gauge;
use crate::commands::{report, write_json};
use crate::config::Run;
use crate::error::Result;
use crate::metrics::{Console, History, MetricsFile, Mllog, StepRecord, Summary, memory};
use std::path::Path;
use std::time::Instant;

pub struct Output {
    pub console: Console,
    /// Rank 0's.
    pub metrics: Option<MetricsFile>,
    /// Rank 0's, where one is wanted.
    pub mllog: Option<Mllog>,
    pub memory: memory::Sampler,
    /// Of every rank.
    pub meter: Meter,
    /// Of rank 0's GPU.
    pub gauge: Option<Gauge>,
    /// Kinds of memory and their planned bytes.
    pub rows: Vec<(&'static str, u64)>,
}

impl Output {
    /// A step: one row, one line.
    pub fn step(&mut self, record: &StepRecord) -> Result<()> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        let record = self.gauge.as_mut().map_or(*record, |gauge| gauge.with(record));
        metrics.append(&record)?;
        self.console.step(&record);
        Ok(())
    }

    /// What `kill -9` cannot take back.
    pub fn flush(&mut self) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), MetricsFile::flush)
    }

    pub fn first_step(&mut self, seconds: f64) -> Result<()> {
        self.metrics.as_mut().map_or(Ok(()), |m| m.first_step(seconds))
    }

    pub fn eval(&mut self, name: &str, step: u64, loss: f64, bits_per_byte: Option<f64>) -> Result<()> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        metrics.eval(name, step, loss)?;
        self.console.eval(name, step, loss, bits_per_byte);
        Ok(())
    }

    pub fn log(&mut self, event: impl FnOnce(&mut Mllog) -> Result<()>) -> Result<()> {
        self.mllog.as_mut().map_or(Ok(()), event)
    }

    /// Something that happened besides.
    pub fn event(&mut self, step: u64, text: &str) -> Result<()> {
        let Some(metrics) = &mut self.metrics else { return Ok(()) };
        metrics.event(step, text)?;
        self.console.say(&format!("{text} (step {step})"));
        Ok(())
    }

    /// The figures of merit, the picture, the page, and where everything is.
    pub fn end(self, run: &Run, checkpoint: Option<&Path>) -> Result<()> {
        let Output { console, metrics, memory, rows, .. } = self;
        let Some(metrics) = metrics else { return Ok(()) };
        metrics.close()?;
        let path = run.train.out.join("metrics.h5");
        let history = History::read(&path)?;
        let summary = Summary::of(&history);
        let peak = match summary.peak_gpu_memory_bytes {
            // gpt2-124M 577, gpt2-1.5B 578, Llama-3.2-1B 709 MB more than the plan on an H100 (CUDA 13.0, cuDNN 9.14)
            Some(bytes) => (bytes, "all in use on its GPU, some 0.6 GB of it by CUDA and its libraries"),
            None => (memory.peak(), "RssAnon + RssShmem"),
        };
        console.say(&format!("\n{}", memory::table(&rows, Some(peak))));
        console.result(&summary.text());
        if let Some(file) = &run.log.json {
            write_json(file, &summary.json())?;
        }
        console.result(&format!("metrics     {}", path.display()));
        if let Some(dir) = checkpoint {
            console.result(&format!("checkpoint  {}", dir.display()));
        }
        if summary.steps.is_some() {
            let drawing = Instant::now();
            let picture = run.train.out.join("report.svg");
            let page = report::draw(&history, &path, &picture)?;
            console.result(&format!("picture     {}\npage        {}", picture.display(), page.display()));
            log::debug!("picture and page drawn in {:.3} s", drawing.elapsed().as_secs_f64());
        }
        Ok(())
    }
}
