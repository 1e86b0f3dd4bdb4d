//! Corpora as files: one corpus in six forms, the errors of damaged ones, sampling, documents, the loader.
use llm_train::data::formats::{Corpus, datatrove, llmc, megatron, numpy, raw};
use llm_train::data::{self, Data, Loader, Order, Reading, Share, Width};
use llm_train::error::{Error, Result};
use llm_train::ops::MASKED;
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const CORPORA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/corpora");
const GPT2: usize = 50257;
const EOS: u32 = 50256;

fn fixture(name: &str) -> PathBuf {
    Path::new(CORPORA).join(name)
}

fn open(path: &Path) -> Result<Corpus> {
    Corpus::open(path, None, GPT2)
}

/// The one sentence of a refusal, which must contain every one of `parts`.
fn refused<T>(result: Result<T>, parts: &[&str]) {
    match result {
        Err(Error::Input(text)) => {
            assert!(parts.iter().all(|p| text.contains(p)), "{text:?} lacks one of {parts:?}");
            assert!(!text.contains('\n') && text.contains("expected") && text.contains("found"), "{text}");
        }
        Err(other) => panic!("not bad input: {other}"),
        Ok(_) => panic!("accepted; expected a refusal with {parts:?}"),
    }
}

fn reading(seq: usize) -> Reading {
    Reading { seq, vocab: GPT2, width: None, eos: Some(EOS), reset_attention: false }
}

fn solo(micro_batch: usize, global_batch: usize) -> Share {
    Share { rank: 0, ranks: 1, micro_batch, global_batch }
}

/// A directory of damaged copies.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().unwrap())
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
    fn copy(&self, name: &str) -> PathBuf {
        std::fs::copy(fixture(name), self.path(name)).unwrap();
        self.path(name)
    }
    fn tokens(&self, name: &str, tokens: &[u16]) -> PathBuf {
        self.write(name, &bytes(tokens))
    }
    /// A Megatron pair of these documents.
    fn megatron(&self, prefix: &str, documents: &[&[u16]]) -> PathBuf {
        self.tokens(&format!("{prefix}.bin"), &documents.concat());
        self.write(&format!("{prefix}.idx"), &index(documents));
        self.path(prefix)
    }
}

fn bytes(tokens: &[u16]) -> Vec<u8> {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

fn index(documents: &[&[u16]]) -> Vec<u8> {
    let n = documents.len();
    let mut idx = b"MMIDIDX\0\0".to_vec();
    idx.extend(1u64.to_le_bytes());
    idx.push(8);
    idx.extend((n as u64).to_le_bytes());
    idx.extend((n as u64 + 1).to_le_bytes());
    documents.iter().for_each(|d| idx.extend((d.len() as i32).to_le_bytes()));
    let mut at = 0u64;
    for d in documents {
        idx.extend(at.to_le_bytes());
        at += 2 * d.len() as u64;
    }
    (0..=n as u64).for_each(|k| idx.extend(k.to_le_bytes()));
    idx
}

// ---------------------------------------------------------------------------------------------------------- six forms

#[test]
fn one_corpus_in_six_forms() {
    let all = |path: &Path| {
        let corpus = open(path).unwrap();
        let mut tokens = vec![0; corpus.len() as usize];
        corpus.read(0, &mut tokens, GPT2).unwrap();
        (corpus.shards()[0].format, tokens)
    };
    let (format, megatron) = all(&fixture("kjv_text_document"));
    assert_eq!((format, megatron.len()), ("Megatron", 1_024_544));
    assert_eq!(&megatron[..3], [818, 262, 3726], "In the beginning");
    for (name, format) in [
        ("kjv_text_document.idx", "Megatron"),
        ("kjv_text_document.bin", "Megatron"),
        ("kjv_nanogpt.bin", "headerless"),
        ("kjv_nanogpt", "headerless"),
        ("kjv_00000.ds", "datatrove"),
        ("kjv_olmo.npy", "headerless"),
        ("kjv_true_numpy.npy", "NumPy"),
    ] {
        assert!(all(&fixture(name)) == (format, megatron.clone()), "{name}");
    }
    let (format, llmc) = all(&fixture("kjv_llmc.bin"));
    assert_eq!((format, llmc[0]), ("llm.c", EOS));
    assert!(llmc[1..] == megatron[..megatron.len() - 1], "llm.c puts the end of text first");
}

#[test]
fn names_tell_nothing() {
    let dir = Files::new();
    std::fs::copy(fixture("kjv_llmc.bin"), dir.path("a.npy")).unwrap();
    std::fs::copy(fixture("kjv_true_numpy.npy"), dir.path("b.bin")).unwrap();
    std::fs::copy(fixture("kjv_olmo.npy"), dir.path("c")).unwrap();
    for (name, format) in [("a.npy", "llm.c"), ("b.bin", "NumPy"), ("c", "headerless")] {
        assert_eq!(open(&dir.path(name)).unwrap().shards()[0].format, format);
    }
}

#[test]
fn four_byte_tokens() {
    let dir = Files::new();
    let tokens = [7u32, 128_000, 3, 99_999];
    let raw: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
    let mut llama = vec![0; 1024];
    for (i, word) in [20240801u32, 7, 4].into_iter().enumerate() {
        llama[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    llama.extend(&raw);
    let mut idx = index(&[&[0, 0, 0, 0]]);
    idx[17] = 4;
    dir.write("m.idx", &idx);
    dir.write("m.bin", &raw);
    dir.write("d.ds", &raw);
    dir.write("d.ds.index", &4u64.to_le_bytes());
    dir.write("r.npy", &raw);
    dir.write("l.bin", &llama);
    for name in ["m", "d.ds", "r.npy", "l.bin"] {
        let corpus = Corpus::open(&dir.path(name), None, 128_256).unwrap();
        let mut read = [0; 4];
        corpus.read(0, &mut read, 128_256).unwrap();
        assert_eq!(read, tokens, "{name}");
    }
    // A vocabulary that fits 16 bits reads the headerless file as such, unless it is told the width.
    assert_eq!(Corpus::open(&dir.path("r.npy"), None, 65_536).unwrap().len(), 8);
    assert_eq!(Corpus::open(&dir.path("r.npy"), Some(Width::U32), 65_536).unwrap().len(), 4);
}

#[test]
fn shards_are_one_stream() {
    let dir = Files::new();
    dir.tokens("fine_train_000001.bin", &[1, 2, 3]);
    dir.tokens("fine_train_000002.bin", &[4]);
    dir.tokens("fine_train_000003.bin", &[5, 6]);
    dir.tokens("fine_val_000000.bin", &[9]);
    for (path, expected) in [("fine_train", vec![1, 2, 3, 4, 5, 6]), ("fine_*_00000[0-1]*", vec![]), ("fine_v*", vec![9])] {
        match open(&dir.path(path)) {
            Ok(corpus) => {
                let mut read = vec![0; corpus.len() as usize];
                corpus.read(0, &mut read, 10).unwrap();
                assert_eq!(read, expected, "{path}");
                let mut middle = vec![0; corpus.len().saturating_sub(3) as usize];
                corpus.read(corpus.len().min(2), &mut middle, 10).unwrap_or_default();
                assert_eq!(middle, expected[expected.len().min(2)..][..middle.len()], "{path}");
            }
            Err(_) => assert!(expected.is_empty(), "{path}"),
        }
    }
    assert_eq!(open(dir.0.path()).unwrap().len(), 7);
}

// ------------------------------------------------------------------------------------------------------------ bad input

#[test]
fn a_missing_corpus_is_named() {
    refused(open(Path::new("/nowhere/corpus")), &["/nowhere/corpus", "none"]);
    let dir = Files::new();
    refused(open(dir.0.path()), &["directory", ".bin"]);
    dir.copy("kjv_text_document.idx");
    refused(open(&dir.path("kjv_text_document")), &["kjv_text_document.bin", "No such file"]);
    refused(open(&dir.path("kjv_text_document.idx")), &["kjv_text_document.bin", "No such file"]);
}

#[test]
fn a_corpus_shorter_than_a_window_is_refused() {
    let dir = Files::new();
    let path = dir.tokens("x.bin", &[1, 2, 3, 4]);
    let name = path.to_str().unwrap();
    refused(Data::open(&[name], Order::AsWritten, &reading(4)), &[name, "at least 5 tokens", "found 4"]);
    assert_eq!(Data::open(&[name], Order::AsWritten, &reading(3)).unwrap().windows(), Some(1));
    refused(Data::open(&[name], Order::AsWritten, &reading(100_000_000)), &["100000001"]);
    refused(open(&dir.write("empty.bin", b"")), &["empty.bin", "empty"]);
}

#[test]
fn truncated_files_are_refused() {
    for name in [
        "kjv_llmc.bin",
        "kjv_text_document.bin",
        "kjv_00000.ds",
        "kjv_true_numpy.npy",
        "kjv_text_document.idx",
        "kjv_00000.ds.index",
    ] {
        let dir = Files::new();
        for part in
            ["kjv_text_document.bin", "kjv_text_document.idx", "kjv_00000.ds", "kjv_00000.ds.index", "kjv_00000.ds.metadata"]
        {
            dir.copy(part);
        }
        let path = dir.copy(name);
        let whole = std::fs::read(&path).unwrap();
        let opened = if name.ends_with(".index") { dir.path("kjv_00000.ds") } else { path.clone() };
        assert!(open(&opened).is_ok(), "{name} whole");
        for left in [whole.len() - 1, whole.len() - 2, whole.len() / 2, 2000, 100, 20, 12] {
            std::fs::write(&path, &whole[..left]).unwrap();
            refused(open(&opened), &[name.trim_end_matches(".index")]);
        }
        let longer = [&whole[..], &[0, 0]].concat();
        std::fs::write(&path, longer).unwrap();
        refused(open(&opened), &[name.trim_end_matches(".index")]);
    }
    let dir = Files::new();
    refused(open(&dir.write("odd.bin", &[0; 1001])), &["odd.bin", "1001 bytes"]);
}

#[test]
fn an_index_whose_sums_do_not_fit_is_refused() {
    let dir = Files::new();
    let prefix = dir.megatron("m", &[&[1, 2], &[3], &[4, 5, 6]]);
    assert_eq!(open(&prefix).unwrap().len(), 6);
    let good = std::fs::read(dir.path("m.idx")).unwrap();
    let refuse = |at: usize, value: u8, parts: &[&str]| {
        let mut bad = good.clone();
        bad[at] = value;
        dir.write("m.idx", &bad);
        refused(open(&prefix), parts);
    };
    refuse(34, 1, &["m.idx", "sequence 1 at byte 2", "found 4"]); // a length
    refuse(34 + 8, 9, &["m.bin", "expected 24 bytes", "found 12"]); // the last length
    refuse(37, 0x80, &["m.idx", "lengths of 0 or more"]);
    refuse(34 + 12 + 8, 8, &["m.idx", "sequence 1 at byte 4", "found 8"]); // a pointer
    refuse(34 + 12 + 16, 4, &["m.idx", "sequence 2 at byte 6", "found 4"]);
    refuse(34 + 36 + 8, 9, &["m.idx", "document numbers", "found 9"]);
    refuse(34 + 36 + 24, 2, &["m.idx", "last document number to be 3", "found 2"]);
    refuse(18, 2, &["m.idx", "2 sequences"]);
    refuse(9, 2, &["m.idx", "version 1", "found 2"]);
    refuse(17, 6, &["m.idx", "type 6"]);
    refuse(0, 0, &["m.idx", "MMIDIDX"]);
}

#[test]
fn a_token_outside_the_vocabulary_is_named_with_its_place() {
    let dir = Files::new();
    let mut tokens = vec![5u16; 3000];
    tokens[2500] = 999;
    let name = dir.tokens("x.bin", &tokens);
    let name = name.to_str().unwrap();
    let small = Reading { vocab: 999, ..reading(10) };
    let data = Data::open(&[name], Order::AsWritten, &small).unwrap();
    assert!(data.batch(0, 0, &solo(8, 8)).is_ok());
    refused(data.batch(248, 0, &solo(8, 8)), &[name, "found 999", "byte 5000", "vocabulary of 999"]);
    refused(data.scan(0, 1), &[name, "found 999", "byte 5000"]);
    assert_eq!(data.scan(0, 2), Ok(1500));
    refused(data.scan(1, 2), &["byte 5000"]);
    assert_eq!(Data::open(&[name], Order::AsWritten, &reading(10)).unwrap().scan(0, 1), Ok(3000));
    let mut loader = Loader::start(Arc::new(data), solo(8, 8), 240).unwrap();
    assert!(loader.next().is_ok());
    refused(loader.next().map(|_| ()), &["byte 5000"]);
}

#[test]
fn what_is_no_corpus_is_refused() {
    let dir = Files::new();
    let text = "In the beginning God created the heaven and the earth. ".repeat(4);
    refused(open(&dir.write("t.bin", text.as_bytes())), &["t.bin", "text", "tokenize"]);
    refused(open(&dir.write("z.bin", &[0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0])), &["z.bin", "zstd"]);
    refused(open(&dir.write("g.bin", &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0])), &["g.bin", "gzip"]);
    let mut evaluation = vec![0; 1024];
    evaluation[..4].copy_from_slice(&20240522u32.to_le_bytes());
    refused(open(&dir.write("e.bin", &evaluation)), &["e.bin", "evaluation"]);
}

#[test]
fn weights_that_are_none_are_refused() {
    let kjv = fixture("kjv_nanogpt.bin");
    for weight in ["-1", "0", "abc"] {
        let spec = format!("{}:{weight}", kjv.display());
        refused(Data::open(&[&spec], Order::AsWritten, &reading(8)), &[&spec]);
    }
}

// ------------------------------------------------------------------------------------------------------------- sampling

#[test]
fn an_epoch_has_each_window_once_in_its_own_order() {
    let dir = Files::new();
    let tokens: Vec<u16> = (0..1000).collect();
    let name = dir.tokens("x.bin", &tokens);
    let (t, windows) = (7, 999 / 7);
    let order = |seed, from: u64| -> Vec<u32> {
        let data = Data::open(&[name.to_str().unwrap()], Order::Shuffled { seed }, &reading(t)).unwrap();
        assert_eq!(data.windows(), Some(windows));
        let batch = data.batch(from, 0, &solo(windows as usize, windows as usize)).unwrap();
        for row in batch.tokens.chunks(t).zip(batch.targets.chunks(t)) {
            let first = row.0[0];
            assert!(first.is_multiple_of(t as u32));
            assert!(row.0.iter().zip(row.1).enumerate().all(|(i, (&x, &y))| x == first + i as u32 && y == x + 1));
        }
        batch.tokens.iter().step_by(t).copied().collect()
    };
    let (first, second, other) = (order(1, 0), order(1, windows), order(2, 0));
    assert!(first != second && first != other && second != other);
    assert_eq!(first, order(1, 0));
    for mut epoch in [first, second, other] {
        epoch.sort_unstable();
        assert!(epoch.iter().enumerate().all(|(i, &x)| x == (i * t) as u32));
    }
}

#[test]
fn the_batch_does_not_depend_on_the_layout() {
    let kjv = format!("{}:2", fixture("kjv_nanogpt.bin").display());
    let same = format!("{}:1.5", fixture("kjv_llmc.bin").display());
    let data = Data::open(&[kjv, same], Order::Shuffled { seed: 5 }, &reading(16)).unwrap();
    let rows = |ranks: usize, micro_batch: usize, consumed: u64| {
        let (mut rows, mut counted) = (vec![Vec::new(); 10], 0);
        for rank in 0..ranks {
            let share = Share { rank, ranks, micro_batch, global_batch: 10 };
            for micro in 0..share.micro_steps() {
                let batch = data.batch(consumed, micro, &share).unwrap();
                counted += batch.target_count() as u64;
                for row in 0..micro_batch {
                    let targets = &batch.targets[row * 16..(row + 1) * 16];
                    match share.sample(micro, row) {
                        Some(c) => rows[c as usize] = targets.to_vec(),
                        None => assert!(targets.iter().all(|&t| t == MASKED)),
                    }
                }
            }
            assert_eq!(share.targets(16), 160);
        }
        assert_eq!(counted, 160);
        rows
    };
    let reference = rows(1, 10, 1_000_000_000);
    assert_ne!(reference, rows(1, 10, 1_000_000_010));
    for (ranks, micro_batch) in [(1, 1), (1, 4), (2, 2), (3, 1), (4, 3), (11, 1)] {
        assert_eq!(rows(ranks, micro_batch, 1_000_000_000), reference, "{ranks} ranks, {micro_batch} rows");
    }
}

#[test]
fn six_forms_give_the_same_windows_in_order() {
    let windows = |name: &str| {
        let data = Data::open(&[fixture(name).to_str().unwrap()], Order::AsWritten, &reading(32)).unwrap();
        data.batch(0, 0, &solo(4, 4)).unwrap()
    };
    let reference = windows("kjv_text_document");
    for name in ["kjv_nanogpt.bin", "kjv_00000.ds", "kjv_olmo.npy", "kjv_true_numpy.npy"] {
        assert_eq!(windows(name), reference, "{name}");
    }
    assert_eq!(reference.tokens[32], reference.targets[31], "windows overlap by one token");
}

#[test]
fn documents_restart_attention_and_positions() {
    let dir = Files::new();
    let documents: [&[u16]; 4] = [&[1, 2, 0], &[3, 0], &[4, 5, 6, 7, 0], &[8, 0]];
    dir.megatron("m", &documents);
    dir.tokens("r.bin", &documents.concat());
    let mut llmc = vec![0; 1024];
    for (i, word) in [20240520u32, 1, 13].into_iter().enumerate() {
        llmc[4 * i..4 * i + 4].copy_from_slice(&word.to_le_bytes());
    }
    let prepended: Vec<u16> = [&[0], &documents.concat()[..11], &[9]].concat();
    llmc.extend(bytes(&prepended));
    dir.write("l.bin", &llmc);
    dir.tokens("d.ds", &documents.concat());
    dir.write("d.ds.index", &[3u64, 5, 10, 12].iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<_>>());

    let rows = |name: &str, seq: usize| {
        let how = Reading { eos: Some(0), reset_attention: true, ..reading(seq) };
        let data = Data::open(&[dir.path(name).to_str().unwrap()], Order::AsWritten, &how).unwrap();
        let n = data.windows().unwrap() as usize;
        let batch = data.batch(0, 0, &solo(n, n)).unwrap();
        (batch.starts.unwrap(), batch.positions.unwrap())
    };
    // tokens     1 2 0 3 0 4 5 6 7 0 8 | 0
    let starts = [0, 0, 0, 3, 3, 5, 5, 5, 5, 5, 10];
    let positions = [0, 1, 2, 0, 1, 0, 1, 2, 3, 4, 0];
    for name in ["m", "r.bin", "d.ds"] {
        assert_eq!(rows(name, 11), (starts.to_vec(), positions.to_vec()), "{name}");
        // Windows of 4: the third begins inside a document, whose positions count from the row's start.
        let (s, p) = rows(name, 4);
        assert_eq!((&s[4..8], &p[4..8]), (&[0, 1, 1, 1][..], &[0, 0, 1, 2][..]), "{name}");
    }
    // tokens     0 1 2 0 3 0 4 5 6 7 0 8
    let (s, p) = rows("l.bin", 12);
    assert_eq!(s, [0, 0, 0, 3, 3, 5, 5, 5, 5, 5, 10, 10]);
    assert_eq!(p, [0, 1, 2, 0, 1, 0, 1, 2, 3, 4, 0, 1]);

    let none = Reading { eos: None, reset_attention: true, ..reading(4) };
    refused(Data::open(&[dir.path("r.bin").to_str().unwrap()], Order::AsWritten, &none), &["r.bin", "documents"]);
}

#[test]
fn documents_go_on_over_shards() {
    let dir = Files::new();
    dir.tokens("s_000000.bin", &[1, 2, 0]);
    dir.tokens("s_000001.bin", &[3, 0, 4]);
    dir.tokens("s_000002.bin", &[5, 0, 6]);
    let how = Reading { eos: Some(0), reset_attention: true, ..reading(8) };
    let data = Data::open(&[dir.path("s").to_str().unwrap()], Order::AsWritten, &how).unwrap();
    let batch = data.batch(0, 0, &solo(1, 1)).unwrap();
    assert_eq!(batch.tokens, [1, 2, 0, 3, 0, 4, 5, 0]);
    assert_eq!(batch.starts.unwrap(), [0, 0, 0, 3, 3, 5, 5, 5]);
}

#[test]
fn an_index_and_the_end_of_text_agree_on_the_fixture() {
    let starts = |name: &str| {
        let how = Reading { reset_attention: true, ..reading(1024) };
        let data = Data::open(&[fixture(name).to_str().unwrap()], Order::AsWritten, &how).unwrap();
        let windows = data.windows().unwrap() as usize;
        data.batch(0, 0, &solo(windows, windows)).unwrap().starts.unwrap()
    };
    let reference = starts("kjv_text_document");
    assert!(reference.iter().zip(&reference[1..]).filter(|(a, b)| a != b).count() > 1100);
    assert!(reference == starts("kjv_nanogpt.bin") && reference == starts("kjv_00000.ds"));
}

#[test]
fn synthetic_tokens_are_a_function_of_the_sample() {
    let how = Reading { vocab: 128, ..reading(64) };
    let data = Data::synthetic(3, &how);
    let whole = data.batch(100, 0, &solo(4, 4)).unwrap();
    let part = data.batch(102, 0, &solo(1, 1)).unwrap();
    assert_eq!(part.tokens, whole.tokens[128..192]);
    assert_ne!(whole.tokens[..64], whole.tokens[64..128]);
    assert_ne!(Data::synthetic(4, &how).batch(100, 0, &solo(4, 4)).unwrap(), whole);
    assert!(whole.tokens.iter().all(|&t| t < 128) && whole.tokens.iter().any(|&t| t > 100));
    assert_eq!(data.windows(), None);
}

#[test]
fn the_loader_gives_what_batch_gives() {
    let data = Data::open(&[fixture("kjv_nanogpt.bin").to_str().unwrap()], Order::Shuffled { seed: 1 }, &reading(33)).unwrap();
    let data = Arc::new(data);
    let share = Share { rank: 1, ranks: 2, micro_batch: 2, global_batch: 10 };
    let mut loader = Loader::start(data.clone(), share, 70).unwrap();
    for step in 0..5 {
        for micro in 0..3 {
            let (batch, _) = loader.next().unwrap();
            assert_eq!(*batch, data.batch(70 + 10 * step, micro, &share).unwrap(), "step {step}, pass {micro}");
        }
    }
}

#[test]
fn ranks_agree_on_the_fingerprint() {
    let print = |path: &Path| Data::open(&[path.to_str().unwrap()], Order::AsWritten, &reading(8)).unwrap().fingerprint();
    let dir = Files::new();
    let copy = dir.copy("kjv_nanogpt.bin");
    assert_eq!(print(&copy), print(&fixture("kjv_nanogpt.bin")));
    let mut other = std::fs::read(&copy).unwrap();
    other[0] ^= 1;
    std::fs::write(&copy, &other).unwrap();
    assert_ne!(print(&copy), print(&fixture("kjv_nanogpt.bin")));
}

#[test]
fn bytes_of_the_gpt2_fixture() {
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpt2_tokenizer.json");
    let lengths = data::token_bytes(&tokenizer).unwrap();
    assert_eq!((lengths.len(), lengths[EOS as usize], lengths[262]), (GPT2, 0, 4)); // " the"
    let corpus = open(&fixture("kjv_nanogpt.bin")).unwrap();
    let mut tokens = vec![0; corpus.len() as usize];
    corpus.read(0, &mut tokens, GPT2).unwrap();
    assert_eq!(data::bytes_of(&tokens, &lengths), 4_136_661);
    assert_eq!(data::bytes_of(&[MASKED, EOS], &lengths), 0);
    refused(data::token_bytes(Path::new("/nowhere")), &["/nowhere"]);
}

// ----------------------------------------------------------------------------------------------------------------- fuzz

/// A good file with a few bytes set, cut or lengthened.
fn mutated(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let n = good.len();
    let edits = prop::collection::vec((0..n, prop_oneof![any::<u8>(), Just(0), Just(255)]), 0..6);
    (edits, prop_oneof![3 => Just(n), 1 => 0..n + 9]).prop_map(move |(edits, left)| {
        let mut bytes = good.clone();
        edits.into_iter().for_each(|(at, value)| bytes[at] = value);
        bytes.resize(left, 0);
        bytes
    })
}

fn small_llmc() -> Vec<u8> {
    let mut file = [&20240520u32.to_le_bytes()[..], &1u32.to_le_bytes(), &5u32.to_le_bytes()].concat();
    file.resize(1024, 0);
    file.extend([0; 10]);
    file
}

fn small_numpy() -> Vec<u8> {
    let dict = "{'descr': '<u2', 'fortran_order': False, 'shape': (3, 2), }";
    let mut file = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    file.extend(format!("{dict:<117}\n").bytes());
    file.extend([0; 12]);
    file
}

/// Whatever the bytes, a reader answers; what it accepts lies inside the file.
fn feed(file: &[u8], beside: &[u8], metadata: Option<&[u8]>) {
    let path = Path::new("fuzz");
    if let Ok((width, len)) = llmc::parse(file, path) {
        assert!(llmc::HEADER + len * width.bytes() <= file.len());
    }
    if let Ok((width, start, len)) = numpy::parse(file, path) {
        assert!(start + len * width.bytes() <= file.len());
    }
    if let Ok(header) = megatron::parse(file, beside.len(), path, path) {
        assert!(header.tokens * header.width.bytes() <= beside.len());
    }
    if let Ok((width, len)) = datatrove::parse(file, metadata, beside.len(), path) {
        assert!(len * width.bytes() <= beside.len());
    }
    for width in [Width::U16, Width::U32] {
        if let Ok(len) = raw::parse(file, width, path) {
            assert!(len * width.bytes() <= file.len());
        }
    }
}

/// The same through files: whatever opens can be read to its end, documents too.
fn feed_files(files: &[(&str, &[u8])], opened: &str) {
    let dir = Files::new();
    files.iter().for_each(|(name, bytes)| drop(dir.write(name, bytes)));
    if let Ok(corpus) = open(&dir.path(opened)) {
        let mut tokens = vec![0; corpus.len() as usize];
        corpus.read(0, &mut tokens, usize::MAX).unwrap();
        let mut starts = Vec::new();
        corpus.document_starts(0, &tokens, Some(0), &mut starts);
        assert!(starts.is_sorted() && starts.iter().all(|&s| s < tokens.len()));
        corpus.fingerprint();
        corpus.scan(0, 2, 3).unwrap_or_default();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_answered(
        file in prop::collection::vec(any::<u8>(), 0..1200), beside in prop::collection::vec(any::<u8>(), 0..64),
        magic in prop::sample::select(vec![&b""[..], b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0\x08", b"\x93NUMPY\x01\0", b"\x93NUMPY\x02\0",
            &[0x88, 0xd8, 0x34, 1, 1, 0, 0, 0], &[0xa1, 0xd9, 0x34, 1, 7, 0, 0, 0]]),
    ) {
        let file = [magic, &file].concat();
        feed(&file, &beside, None);
        feed(&file, &beside, Some(&beside));
    }

    #[test]
    fn damaged_headers_are_answered(
        llmc in mutated(small_llmc()), numpy in mutated(small_numpy()), idx in mutated(index(&[&[1, 2], &[3], &[4, 5, 6]])),
        ends in mutated([2u64, 3, 6].iter().flat_map(|e| e.to_le_bytes()).collect()), metadata in mutated(b"gpt2|2\n6\n".to_vec()),
    ) {
        for file in [&llmc, &numpy, &idx] {
            feed(file, &[0; 12], None);
        }
        feed(&ends, &[0; 12], Some(&metadata));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_open_whole_or_not_at_all(
        llmc in mutated(small_llmc()), numpy in mutated(small_numpy()), idx in mutated(index(&[&[1, 2], &[3], &[4, 5, 6]])),
        bin in mutated(vec![0; 12]), ends in mutated([2u64, 3, 6].iter().flat_map(|e| e.to_le_bytes()).collect()),
    ) {
        feed_files(&[("a.bin", &llmc)], "a.bin");
        feed_files(&[("a.bin", &numpy)], "a.bin");
        feed_files(&[("a.idx", &idx), ("a.bin", &bin)], "a");
        feed_files(&[("a.ds", &bin), ("a.ds.index", &ends)], "a.ds");
    }
}
