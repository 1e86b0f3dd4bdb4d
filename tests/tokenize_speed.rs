//! The whole of `tokenize`, per core, against the `tokenizers` library's own batch encoding in the same run. The one test of
//! its process, so that the process's processor time is that of what it measures, whatever else the machine does.
use llm_train::commands::tokenize::{self, Format, Split, TokenizeArgs};
use std::path::Path;

/// Processor seconds of this process, all its threads together.
fn processor_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}

#[test]
fn as_fast_per_core_as_the_librarys_batches() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tokenizer = root.join("tests/fixtures/gpt2_tokenizer.json");
    let mut text = String::new();
    let packed = std::fs::File::open(root.join("data/kjv.txt.gz")).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
    text.truncate(1_500_000);
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("text.txt");
    std::fs::write(&input, &text).unwrap();
    let documents: Vec<&str> = text.split("\n\n").collect();
    let args = TokenizeArgs {
        input: vec![input],
        output: dir.path().join("out"),
        tokenizer: Some(tokenizer.clone()),
        train_vocab: None,
        format: Format::Megatron,
        split: Split::Paragraph,
        text_key: "text".into(),
        append_eod: true,
        eod_token: None,
        val_fraction: 0.0,
        threads: Some(1),
        unit_bytes: 64 << 20,
    };
    let timed = |work: &dyn Fn()| {
        let before = processor_seconds();
        work();
        processor_seconds() - before
    };
    // Opening the tokenizer is no part of encoding: the library's is opened before, ours is timed and taken off.
    let open = || tokenizers::Tokenizer::from_file(&tokenizer).unwrap();
    let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
    for _ in 0..3 {
        let library = open();
        theirs = theirs.min(timed(&|| drop(library.encode_batch(documents.clone(), false).unwrap())));
        let opening = timed(&|| drop(open()));
        let all = timed(&|| drop(tokenize::run(&args, 0, 1, &mut |r| r).unwrap()));
        ours = ours.min(all - 2.0 * opening); // looked at, then used
    }
    let speed = |seconds: f64| text.len() as f64 / 1e6 / seconds;
    println!("per core: tokenize {:.2} MB/s, tokenizers' encode_batch {:.2} MB/s", speed(ours), speed(theirs));
    assert!(speed(ours) >= 0.9 * speed(theirs));
}
