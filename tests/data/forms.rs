//! One corpus in six forms, several files as one stream.
use crate::*;

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
