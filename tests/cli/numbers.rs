//! Precision and recomputation.
use crate::program::{alone, ranks};
use crate::scene::Scene;
use llm_train::checkpoint::Source;

#[test]
fn bf16_is_near_fp32() {
    let scene = Scene::new();
    for precision in ["fp32", "bf16", "bf16-true"] {
        alone(&format!("{} --steps 20 --precision {precision}", scene.options(precision))).done();
    }
    let [exact, rough, alone] = ["fp32", "bf16", "bf16-true"].map(|precision| scene.run(precision).losses());
    let off = |other: &[f64]| exact.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off(&rough) > 0.0 && off(&rough) < 2e-2, "{}", off(&rough));
    assert!(off(&alone) > 0.0 && off(&alone) < 4e-2 && alone != rough, "{}", off(&alone));
    assert!(exact[19] < exact[0] - 0.1, "it does not learn: {exact:?}");
}

/// Weights that are bf16 alone, rounded at random: a checkpoint holds all that the next step needs.
#[test]
fn bf16_true_goes_on_bit_by_bit() {
    let scene = Scene::new();
    for (n, zero, rounding) in [(1, 0, ""), (2, 0, ""), (2, 1, ""), (2, 1, "--no-stochastic-rounding")] {
        let folder = |what: &str| format!("{what}-{n}-{zero}{rounding}");
        let options = |out: &str| format!("{} --precision bf16-true --zero {zero} {rounding}", scene.options(&folder(out)));
        ranks(n, &format!("{} --steps 7", options("whole"))).done();
        ranks(n, &format!("{} --steps 4", options("parts"))).done();
        let ended = ranks(n, &format!("{} --steps 7", options("parts"))).done();
        assert!(ended.out.contains("going on after step 4") && !ended.err.contains("its weights are"), "{ended}");
        let words = if rounding.is_empty() { "weights in bf16 rounded at random" } else { "weights in bf16 rounded to nearest" };
        assert!(ended.out.contains(words), "{ended}");
        let [whole, parts] = ["whole", "parts"].map(|what| scene.run(&folder(what)));
        assert_eq!(whole.losses(), parts.losses(), "{n} ranks, zero {zero} {rounding}");
        assert!(whole.weights(7) == parts.weights(7), "{n} ranks, zero {zero} {rounding}: weights");
    }
    // Sharded or not, the same bits; at random and to nearest, others.
    let weights = |folder: &str| scene.run(folder).weights(7);
    assert!(weights("whole-2-0") == weights("whole-2-1"), "DDP and ZeRO-1 differ");
    assert!(weights("whole-2-1") != weights("whole-2-1--no-stochastic-rounding"));
    // Elsewhere the same samples, with sums in another order.
    for n in [1, 3] {
        let folder = format!("then-{n}");
        let options = |steps| format!("{} --precision bf16-true --zero 1 --steps {steps}", scene.options(&folder));
        ranks(2, &options(4)).done();
        ranks(n, &options(7)).done();
        let (losses, whole) = (scene.run(&folder).losses(), scene.run("whole-2-1").losses());
        let off = losses.iter().zip(&whole).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(losses.len() == 7 && off < 1e-3, "{n} ranks: {off}\n{losses:?}\n{whole:?}");
    }
}

/// A checkpoint of either kind goes on in the other, and that is said.
#[test]
fn a_resume_may_change_what_weights_are() {
    let scene = Scene::new();
    for (from, to, words) in [
        ("fp32", "bf16-true", Some("its weights are f32; this run goes on with them in bf16, rounded to nearest")),
        ("bf16-true", "fp32", Some("its weights are bf16; this run goes on with them in f32")),
        ("bf16-true", "bf16", Some("its weights are bf16; this run goes on with them in f32")),
        ("fp32", "bf16", None),
        ("bf16-true", "bf16-true", None),
    ] {
        let folder = format!("{from}-{to}");
        let options = |precision: &str, steps| format!("{} --precision {precision} --steps {steps}", scene.options(&folder));
        alone(&options(from, 4)).done();
        let ended = alone(&options(to, 8)).done();
        assert_eq!(ended.err.contains("its weights are"), words.is_some(), "{ended}");
        words.iter().for_each(|words| assert!(ended.err.contains(words), "{ended}"));
        let losses = scene.run(&folder).losses();
        assert!(losses.len() == 8 && losses[7] < losses[0], "{folder}: {losses:?}");
        for (step, precision) in [(4, from), (8, to)] {
            let file = Source::open(&scene.run(&folder).checkpoint(step).join("model.safetensors")).unwrap();
            let width = if precision == "bf16-true" { 2 } else { 4 };
            assert!(file.names().iter().all(|name| file.width(name).unwrap() == width), "{folder}: step {step}");
        }
    }
}

#[test]
fn recomputing_blocks_changes_no_bit() {
    let scene = Scene::new();
    for recompute in ["none", "block"] {
        alone(&format!("{} --recompute {recompute}", scene.options(recompute))).done();
    }
    assert_eq!(scene.run("none").losses(), scene.run("block").losses());
    assert!(scene.run("none").weights(4) == scene.run("block").weights(4));
}

#[test]
fn a_checked_corpus_trains() {
    let scene = Scene::new();
    alone(&format!("{} --check-data", scene.options("run"))).done();
    assert_eq!(scene.run("run").losses().len(), 4);
}
