//! What a checkpoint says of the GPU that wrote it, and what a run that goes on makes of it: the same algorithms and the same
//! attention, or a sentence.
use crate::place::on_gpu;
use crate::scene::{Precision, Run, stubs, tiny};
use serde_json::{Value, json};
use std::path::Path;

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

/// Changes a checkpoint's progress, and its bytes in the list of files.
fn change(checkpoint: &Path, change: impl FnOnce(&mut Value)) {
    let (file, list) = (checkpoint.join("progress.json"), checkpoint.join("complete"));
    let (mut progress, mut complete) = (read(&file), read(&list));
    change(&mut progress);
    std::fs::write(&file, progress.to_string()).unwrap();
    complete["files"]["progress.json"] = json!(progress.to_string().len());
    std::fs::write(&list, complete.to_string()).unwrap();
}

#[test]
fn a_checkpoint_of_another_gpu_or_another_attention_is_gone_on_with_and_said() {
    let options = format!("{} --schedule constant --warmup-steps 0 --save-every 3 --keep 9", tiny());
    if on_gpu() || stubs().is_none() {
        return;
    }
    let run = |ranks: usize| Run::cuda(&options).unwrap().precision(Precision::Bf16).and("--steps 3").ranks(ranks);
    for ranks in [1, 2] {
        let whole = run(ranks).and("--steps 6").steps();
        let first = run(ranks);
        first.job().done();
        let checkpoint = first.out.path().join("run/checkpoints/step-00000003");
        let progress = read(&checkpoint.join("progress.json"));
        assert_eq!(progress["attention"], json!({ "by": "own" }));
        let of = progress["products_of"].as_str().unwrap();
        assert!(of.contains("H100") && of.contains("cuBLASLt 130000"), "{of}");
        assert!(progress["products"].as_str().unwrap().len() > 100);

        // Nothing has changed: nothing is said.
        let on = first.and("--steps 4");
        let ended = on.job().done();
        assert!(!ended.err.contains("cannot be repeated") && on.left() == whole[..4], "{ended}");
        change(&on.out.path().join("run/checkpoints/step-00000003"), |progress| {
            progress["products_of"] = json!("NVIDIA A100-SXM4-40GB, cuBLASLt 120803");
            // no algorithm of this one's
            progress["products"] = json!("ff".repeat(progress["products"].as_str().unwrap().len() / 2));
            progress["attention"] = json!({
                "by": "cudnn", "version": "9.1.0", "gpu": "NVIDIA A100-SXM4-40GB", "shape": "1 sequences of 16 rows",
                "forward": "{}", "backward": "{}",
            });
        });
        let dir = on.out.path().join("run/checkpoints/step-00000003");
        let on = on.and(&format!("--steps 6 --resume {}", dir.display()));
        let ended = on.job().done();
        for parts in [
            ["matrix products cannot be repeated", "NVIDIA A100-SXM4-40GB, cuBLASLt 120803", "H100"],
            ["attention cannot be repeated", "cuDNN 9.1.0", "which does not serve this run"],
        ] {
            let said = ended.err.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count();
            assert_eq!(said, 1, "{parts:?}: {ended}");
        }
        // The stub multiplies alike, whatever it is told.
        assert_eq!(on.left(), whole, "{ranks} ranks");
        let again = read(&on.out.path().join("run/checkpoints/step-00000006/progress.json"));
        assert_eq!((&again["attention"], &again["products_of"]), (&json!({ "by": "own" }), &progress["products_of"]));
    }
}
