//! Which checkpoints stay, where `latest` points, and a run that goes on with another number of ranks.
use crate::program::{alone, ranks};
use crate::scene::Scene;
use std::fs;

#[test]
fn the_newest_and_those_at_multiples_stay() {
    let scene = Scene::new();
    alone(&format!("{} --steps 13 --save-every 2 --keep 2 --keep-every 6", scene.options("run"))).done();
    let left = scene.run("run");
    assert_eq!(left.checkpoints(), [6, 12, 13]);
    assert_eq!(fs::read_link(left.0.join("checkpoints/latest")).unwrap().to_str(), Some("step-00000013"));
    alone(&format!("{} --steps 20 --save-every 2 --keep 1 --no-save-at-end", scene.options("run"))).done();
    assert_eq!(left.checkpoints(), [20]);
}

#[test]
fn four_ranks_then_one_two_or_three() {
    let scene = Scene::new();
    let options = |out: &str, steps: u64| format!("{} --global-batch 6 --steps {steps}", scene.options(out));
    ranks(4, &format!("{} --zero 1", options("four", 4))).done();
    ranks(4, &options("whole", 9)).done();
    let whole = scene.run("whole").losses();
    for n in [1, 2, 3] {
        let folder = format!("then-{n}");
        scene.run("four").copy_to(&scene.run(&folder));
        ranks(n, &format!("{} --zero {}", options(&folder, 9), n % 2)).done();
        let losses = scene.run(&folder).losses();
        let off = losses.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(losses.len() == 9 && off < 1e-5, "{n} ranks: {off}\n{losses:?}\n{whole:?}");
    }
}

#[test]
fn a_folder_of_one_s_own_and_no_resuming() {
    let scene = Scene::new();
    alone(&format!("{} --steps 6 --save-every 3", scene.options("first"))).done();
    assert_eq!(fs::read_link(scene.run("first").0.join("checkpoints/latest")).unwrap().to_str(), Some("step-00000006"));
    // From the older of two, into another folder.
    let dir = scene.run("first").checkpoint(3);
    alone(&format!("{} --steps 6 --resume {}", scene.options("second"), dir.display())).done();
    assert_eq!(scene.run("second").steps(), [4, 5, 6]);
    assert!(scene.run("second").weights(6) == scene.run("first").weights(6));
    // From the beginning: the old metrics are moved aside.
    alone(&format!("{} --steps 2 --resume never", scene.options("first"))).done();
    assert_eq!(scene.run("first").steps(), [1, 2]);
    assert!(scene.run("first").0.join("metrics.1.h5").is_file());
}
