//! The tester, tested: faults planted in the kernels, each of which some test must catch.
//!
//! ```text
//! every barrier, cp.async wait and commit       left out; waits that let one group more pass; waits behind the barrier
//! by hand (planted.rs)                          swapped registers of fragments, wrong addresses, rows and elements past the
//!                                               end read and written, masks and maxima forgotten, …
//! ```
//! All are compiled at once: `M` of a planted text becomes `(hostsim::mutant == 17)`, and a child process runs the tests of
//! the file with HOSTSIM_MUTANT=17. With 0 the same tests pass.
use crate::gpu;
use crate::planted::{BY_HAND, Planted};
use crate::sanitizer;
use crate::simulator::{MUTANT, Real, Simulator, mutated, ops, sanitized};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

struct Mutant {
    what: String,
    /// The tests that are to catch it: a part of their names.
    tests: &'static str,
    /// Caught by the sanitizer, which sees reads that change no number.
    sanitized: bool,
}

/// Which tests run a file's kernels; those of the prelude are everywhere, and norms use most of it.
const TESTS: [(&str, &str); 17] = [
    ("prelude.cu", "norm::norm"),
    ("activation.cu", "activation::activation"),
    ("adamw.cu", "adamw::"),
    ("attention/backward.cu", "attention::attention"),
    ("attention/decode.cu", "attention::decode"),
    ("attention/forward.cu", "attention::attention"),
    ("attention/plain.cu", "attention::plain"),
    ("attention/tiles.cu", "attention::attention"),
    ("elementwise.cu", "elementwise::"),
    ("embedding.cu", "embedding::"),
    ("loss.cu", "loss::"),
    ("norm.cu", "norm::norm"),
    ("norm_wide.cu", "norm::norm"),
    ("qk_norm.cu", "qk_norm::"),
    ("rows.cu", "rows::"),
    ("sample.cu", "sample::sample"),
    ("verdict.cu", "verdict::"),
];

/// Where the planted sources lie, for this process and its children.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("mutants")
}

/// Plants all faults and writes the sources. Number i is the mutant i + 1.
fn plant() -> Vec<Mutant> {
    let mut mutants = vec![];
    let out = sources();
    std::fs::create_dir_all(out.join("attention")).unwrap();
    let files = TESTS.iter().map(|t| t.0).chain(["rope.cu"]);
    let mut seen = 0;
    for file in files {
        let text = std::fs::read_to_string(ops().join(file)).unwrap();
        let tests = TESTS.iter().find(|t| t.0 == file).map_or("rope::", |t| t.1);
        let mut add = |what: String| {
            mutants.push(Mutant { what: format!("{file}: {what}"), tests, sanitized: false });
            mutants.len()
        };
        let mut text = everywhere(&text, &mut add);
        for planted in BY_HAND.iter().filter(|p| p.file == file) {
            seen += 1;
            let Planted { what, tests: own, sanitized, .. } = *planted;
            mutants.push(Mutant { what: format!("{file}: {what}"), tests: own.unwrap_or(tests), sanitized });
            for (old, new) in planted.edits {
                assert!(text.contains(old), "{file}: nowhere says {old}");
                text = text.replacen(old, &active(new, mutants.len()), 1);
            }
        }
        std::fs::write(out.join(file), text).unwrap();
    }
    assert_eq!(seen, BY_HAND.len(), "a planted fault names a file that is not there");
    mutants
}

/// The text with its `M`, as a word by itself, telling whether mutant `number` is active.
fn active(text: &str, number: usize) -> String {
    let mut out = String::new();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    for (i, c) in text.char_indices() {
        let inside = text[..i].chars().next_back().is_some_and(word) || text[i + 1..].chars().next().is_some_and(word);
        if c == 'M' && !inside {
            out += &format!("(hostsim::mutant == {number})");
        } else {
            out.push(c);
        }
    }
    out
}

/// Plants what is planted at every place of its kind. `add` names a mutant and returns its number.
fn everywhere(text: &str, add: &mut impl FnMut(String) -> usize) -> String {
    let mut out = String::new();
    let mut behind = None; // a wait to be made up for at the next barrier
    for (i, line) in text.lines().enumerate() {
        let at = i + 1;
        let trimmed = line.trim_start();
        let mut line = line.to_owned();
        if trimmed.starts_with("__syncthreads();") {
            let number = add(format!("no barrier in line {at}"));
            let after = behind.take().unwrap_or_default();
            line = line.replacen("__syncthreads();", &active(&format!("if (!M) __syncthreads(); {after}"), number), 1);
        } else if trimmed.starts_with("copy_commit();") {
            let number = add(format!("no commit in line {at}"));
            line = line.replacen("copy_commit();", &active("if (!M) copy_commit();", number), 1);
        } else if let Some(rest) = trimmed.strip_prefix("copy_wait<")
            && let Some(groups) = rest.split('>').next().and_then(|n| n.parse::<u32>().ok())
        {
            let (none, more) = (add(format!("no wait in line {at}")), add(format!("the wait in line {at} is for a group less")));
            let late = add(format!("the wait in line {at} is behind the barrier"));
            behind = Some(active(&format!("if (M) copy_wait<{groups}>();"), late));
            let (fewer, usual) = (format!("copy_wait<{}>();", groups + 1), format!("copy_wait<{groups}>();"));
            let neither = format!("hostsim::mutant != {none} && hostsim::mutant != {late}");
            line = format!("if (hostsim::mutant == {more}) {fewer} else if ({neither}) {usual}");
        }
        out += &line;
        out.push('\n');
    }
    assert!(behind.is_none(), "a wait without a barrier behind it");
    out
}

/// Runs the tests whose names contain `tests` with a planted fault. Whether they failed, and what was said first.
fn run(number: usize, tests: &str, under_sanitizer: bool) -> (bool, String) {
    let mut command = if under_sanitizer { sanitizer::command() } else { Command::new(std::env::current_exe().unwrap()) };
    command.args([tests, "--test-threads=1"]).env(MUTANT, number.to_string());
    let log = tempfile::NamedTempFile::new().unwrap();
    let both = || Stdio::from(OpenOptions::new().append(true).open(log.path()).unwrap());
    let mut child = command.stdout(both()).stderr(both()).spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > Duration::from_secs(300) {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
    let telling = ["hostsim:", "reference says", "depends on", "ERROR: Addr", "is off by", "relative error", "panicked"];
    let first = telling.iter().find_map(|t| said.lines().find(|l| l.contains(t))).unwrap_or("").to_owned();
    match status {
        Some(status) => (!status.success(), if status.success() { said } else { first }),
        None => (true, "no end".to_owned()),
    }
}

#[test]
fn every_planted_fault_is_caught() {
    if mutated() || sanitized() || gpu::chosen() {
        return;
    }
    let mutants = plant();
    // Both libraries are built before the children ask for them.
    std::thread::scope(|s| {
        for sanitized in [false, true] {
            s.spawn(move || run(0, "nothing_but_building", sanitized));
        }
    });
    let mut whole: Vec<(&str, bool)> = mutants.iter().map(|m| (m.tests, m.sanitized)).collect();
    whole.sort();
    whole.dedup();
    for (tests, sanitized) in whole {
        let (failed, said) = run(0, tests, sanitized);
        assert!(!failed && !said.contains("0 passed"), "{tests} without a fault, sanitizer {sanitized}: {said}");
    }
    let (next, survivors) = (Mutex::new(0..mutants.len()), Mutex::new(vec![]));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                while let Some(i) = { next.lock().unwrap().next() } {
                    let (caught, said) = run(i + 1, mutants[i].tests, mutants[i].sanitized);
                    println!("{} {}\n         {said}", if caught { "caught  " } else { "SURVIVES" }, mutants[i].what);
                    if !caught {
                        survivors.lock().unwrap().push(&mutants[i].what);
                    }
                }
            });
        }
    });
    let survivors = survivors.into_inner().unwrap();
    // Not println: the count is to be seen when the test passes, too.
    let count = format!("mutants of the kernels: {} of {} caught\n", mutants.len() - survivors.len(), mutants.len());
    std::io::stderr().write_all(count.as_bytes()).unwrap();
    assert!(survivors.is_empty(), "not caught: {survivors:#?}");
}

/// Builds the library of a child's mode, and does no more.
#[test]
fn nothing_but_building() {
    if mutated() {
        Simulator::new(Real::Bf16);
    }
}
