//! Which rows a batch has: a pure function of the seed and the count of samples; documents; the loader.
use crate::*;

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
