//! N ranks write, M read: weights and moments come back bit for bit.
use crate::toy::*;
use llm_train::checkpoint::*;
use serde_json::{Value, json};
use std::fs;

#[test]
fn any_number_of_ranks_reads_what_another_number_wrote() {
    for (writers, zero) in [(4, true), (4, false), (3, true), (1, false), (7, true)] {
        let out = tempfile::tempdir().unwrap();
        let dirs = save_on(out.path(), 5, writers, zero, &How { shard_limit: 1300, ..PLAIN });
        let dir = dirs[0].clone().unwrap();
        assert!(dirs.iter().all(|d| d.as_ref().unwrap() == &dir));
        check_complete(&dir).unwrap();
        assert_eq!(read_progress(&dir).unwrap(), progress(5, writers));
        let written: u64 =
            listing(&dir).iter().filter(|f| f.starts_with("optimizer")).map(|f| fs::metadata(dir.join(f)).unwrap().len()).sum();
        let weights: u64 = Toy::new(0, 1, false).parameters.iter().map(|p| p.weights.len() as u64).sum();
        assert!(written < 8 * weights + 2000 * writers as u64, "{written} bytes of moments for {weights} weights");
        for (readers, zero) in [(1, false), (2, false), (2, true), (3, true), (4, true), (11, true)] {
            for rank in 0..readers {
                let toy = Toy::new(rank, readers, zero);
                load_weights(&dir, &toy.dev, &toy.parameters).unwrap();
                load_optimizer(&dir, &toy.dev, &toy.parameters, &toy.moments).unwrap();
                toy.assert_filled(&format!("{writers} wrote, rank {rank} of {readers} reads"));
            }
        }
    }
}

#[test]
fn shards_and_index_are_those_of_hugging_face() {
    let out = tempfile::tempdir().unwrap();
    let dir = save_on(out.path(), 1, 2, false, &How { shard_limit: 3000, ..PLAIN }).remove(0).unwrap();
    let index: Value = serde_json::from_slice(&fs::read(dir.join("model.safetensors.index.json")).unwrap()).unwrap();
    let parameters = Toy::new(0, 1, false).parameters;
    let total: usize = parameters.iter().map(|p| p.weights.len()).sum();
    assert_eq!(index["metadata"], json!({ "total_parameters": total, "total_size": 4 * total }));
    let files: Vec<_> = listing(&dir).into_iter().filter(|f| f.starts_with("model-")).collect();
    assert_eq!(
        files,
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"]
    );
    for p in &parameters {
        let source = Source::open(&dir.join(index["weight_map"][&p.name].as_str().unwrap())).unwrap();
        assert_eq!(source.info(&p.name).unwrap().shape, p.shape);
        assert_eq!(source.metadata("format"), Some("pt"));
    }
}
