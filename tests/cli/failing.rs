//! Trouble in the middle of the work: exit 1, one sentence, and the last good checkpoint is there to go on from.
use crate::program::{Job, PROGRAM, alone, mpirun, ranks};
use crate::scene::{SEQ, Scene};
use safetensors::SafeTensors;
use std::fs;
use std::process::Command;

#[test]
fn a_disk_that_fills_up_during_a_checkpoint() {
    let scene = Scene::new();
    let options = |out: &str, steps: u64| format!("{} --steps {steps} --save-every 3", scene.options(out));
    alone(&options("whole", 9)).done();
    ranks(2, &options("full", 3)).done();
    let left = scene.run("full");
    let checkpoints = left.0.join("checkpoints");
    let before = left.weights(3);

    // A disk with room for one checkpoint and a half, seen by these ranks only; its state is copied out at the end.
    let bytes: u64 = left.contents().iter().filter(|(p, _)| p.starts_with(&checkpoints)).map(|(_, b)| b.len() as u64).sum();
    let (mine, after) = (checkpoints.display(), scene.path("after"));
    let script = format!(
        "mkdir {after} && cp -a {mine}/. {after} && mount -t tmpfs -o size={} none {mine} && cp -a {after}/. {mine} || exit 77\n\
         mpirun -n 2 --bind-to none {PROGRAM} {}; code=$?\n\
         rm -r {after} && cp -a {mine} {after}; exit $code",
        bytes * 3 / 2,
        options("full", 9)
    );
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &script]);
    let mut ended = Job::new(command).run();
    if ended.status.code() == Some(77) || ended.err.starts_with("unshare") {
        // No disk of our own here: a limit on the length of files stands in, in half kilobytes or kilobytes by the shell.
        let script = format!("trap '' XFSZ; ulimit -f 400; exec mpirun -n 2 --bind-to none {PROGRAM} {}", options("full", 9));
        let mut command = Command::new("sh");
        command.args(["-c", &script]);
        ended = Job::new(command).run();
    } else {
        fs::remove_dir_all(&checkpoints).unwrap();
        fs::rename(&after, &checkpoints).unwrap();
    }
    let ended = ended.with_code(1);
    ended.sentence(&["step 6", "step-00000006.partial", ".safetensors", "bytes written"]);
    assert_eq!(left.checkpoints(), [3]);
    assert_eq!(fs::read_link(checkpoints.join("latest")).unwrap().to_str(), Some("step-00000003"));
    assert!(left.weights(3) == before);

    ranks(2, &options("full", 9)).done();
    assert_eq!(left.steps(), (1..=9).collect::<Vec<u64>>());
    let off = left.losses().iter().zip(scene.run("whole").losses()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off < 1e-5, "{off}");
}

#[test]
fn a_loss_that_is_not_finite() {
    let scene = Scene::new();
    let base = scene.options("run");
    ranks(2, &base).done();
    let left = scene.run("run");
    // The first step is still good, its update is not.
    let ended = ranks(2, &format!("{base} --steps 9 --lr 1e30 --save-every 4")).run().with_code(1);
    ended.sentence(&["step 6", "rank 0", "not finite"]);
    assert_eq!(left.checkpoints(), [4]);
    assert_eq!(left.steps(), [1, 2, 3, 4, 5]);
    ranks(2, &format!("{base} --steps 9")).done();
    assert_eq!(left.losses().len(), 9);
}

/// The rank that is named is the one whose own loss is bad, though the gradients of all are by then.
#[test]
fn the_rank_with_the_bad_loss_is_named() {
    let scene = Scene::new();
    alone(&format!("{} --steps 1", scene.options("first"))).done();
    // Token 300 has no finite embedding, and only the second of four windows holds it.
    let dir = scene.run("first").checkpoint(1);
    let mut weights = scene.run("first").weights(1);
    let row = {
        let tensors = SafeTensors::deserialize(&weights).unwrap();
        let table = tensors.tensor("model.embed_tokens.weight").unwrap().data();
        table.as_ptr() as usize - weights.as_ptr() as usize + 4 * 32 * 300
    };
    weights[row..row + 4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(dir.join("model.safetensors"), weights).unwrap();
    let corpus = scene.corpus("four.bin", (0..4 * SEQ as u32 + 1).map(|i| if i == 40 { 300 } else { i % 100 }));
    let options = format!("{} --model {} --init pretrained --data {corpus}", scene.options("named"), dir.display());
    let mut named = vec![];
    // The seeds bring the window to one rank or another.
    for seed in 1..=4 {
        let ended =
            mpirun(&format!("-n 4 --bind-to none {PROGRAM} {options} --seed {seed} --out {}", scene.path(&format!("{seed}"))));
        let ended = ended.run().with_code(1);
        let said = ended.sentence(&["step 1", "not finite"]).to_string();
        named.push((0..4).position(|r| said.contains(&format!("rank {r} "))).unwrap());
    }
    named.dedup();
    assert!(named.len() > 1, "always the same rank: {named:?}");
}
