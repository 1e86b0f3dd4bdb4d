//! Any bytes at all: a sentence, never a panic, never memory that the file's own length does not bound.
use crate::toy::*;
use llm_train::checkpoint::*;
use proptest::prelude::*;
use std::fs;
use std::sync::OnceLock;

/// Opens the bytes as a file and reads whatever it says it holds.
fn read_all(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    fs::write(&path, bytes).unwrap();
    if let Ok(source) = Source::open(&path) {
        for name in source.names() {
            let n: usize = source.info(&name).unwrap().shape.iter().product();
            if let Ok(values) = source.read(&name, 0..n) {
                assert!(values.len() <= bytes.len());
            }
        }
    }
    let toy = Toy::new(0, 1, false);
    let _ = load_weights(dir.path(), &toy.dev, &toy.parameters);
}

fn framed(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn claims_beyond_the_file_take_no_memory() {
    for header in [
        r#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551600,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,18446744073709551615]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,16]}}"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, framed(header, 16)).unwrap();
        assert!(Source::open(&path).is_err(), "{header}");
    }
    read_all(&[&(1u64 << 62).to_le_bytes()[..], b"{}"].concat());
    read_all(&framed(&"[".repeat(100_000), 0));
}

/// A whole checkpoint of two ranks, written once.
static WHOLE: OnceLock<tempfile::TempDir> = OnceLock::new();

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    #[test]
    fn any_header(header in "[\\[\\]{}:,\"a-f0-9FB_]{0,120}", data in 0usize..64) {
        read_all(&framed(&header, data));
    }

    #[test]
    fn any_claim(dtype in "F32|BF16|F64|U8|F4|BOOL", shape in proptest::collection::vec(any::<u64>(), 0..4), small in 0u64..9, start in 0u64..9, end in any::<u64>()) {
        for (shape, end) in [(shape, end), (vec![small, 2], start + 8 * small)] {
            read_all(&framed(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#), 8 * small as usize));
        }
    }

    /// A real checkpoint with some bytes changed and its end moved: weights, moments, progress and list.
    #[test]
    fn a_checkpoint_gnawed_at(
        changes in proptest::collection::vec((0usize..4, any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in proptest::option::of((0usize..4, any::<prop::sample::Index>())),
    ) {
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("checkpoints/step-00000001");
        fs::create_dir_all(&dir).unwrap();
        let whole = WHOLE.get_or_init(|| {
            let out = tempfile::tempdir().unwrap();
            save_on(out.path(), 1, 2, true, &PLAIN).remove(0).unwrap();
            out
        });
        let whole = whole.path().join("checkpoints/step-00000001");
        for file in listing(&whole) {
            fs::copy(whole.join(&file), dir.join(&file)).unwrap();
        }
        let files = ["model.safetensors", "optimizer-00002-of-00002.safetensors", "progress.json", "complete"].map(|f| dir.join(f));
        for (file, at, byte) in &changes {
            let mut bytes = fs::read(&files[*file]).unwrap();
            // The first kilobyte holds the headers, where a change can mislead.
            let reach = bytes.len().min(1000);
            bytes[at.index(reach)] = *byte;
            fs::write(&files[*file], bytes).unwrap();
        }
        if let Some((file, at)) = cut {
            let bytes = fs::read(&files[file]).unwrap();
            fs::write(&files[file], &bytes[..at.index(bytes.len())]).unwrap();
        }
        let toy = Toy::new(1, 3, true);
        let _ = (newest(out.path()), check_complete(&dir), read_progress(&dir), same_model(&dir, &config()));
        let _ = load_weights(&dir, &toy.dev, &toy.parameters);
        let _ = load_optimizer(&dir, &toy.dev, &toy.parameters, &toy.moments);
    }
}
