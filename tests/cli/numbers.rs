//! Precision and recomputation.
use crate::program::alone;
use crate::scene::Scene;

#[test]
fn bf16_is_near_fp32() {
    let scene = Scene::new();
    for precision in ["fp32", "bf16"] {
        alone(&format!("{} --steps 20 --precision {precision}", scene.options(precision))).done();
    }
    let (exact, rough) = (scene.run("fp32").losses(), scene.run("bf16").losses());
    let off = exact.iter().zip(&rough).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(off > 0.0 && off < 2e-2, "{off}");
    assert!(exact[19] < exact[0] - 0.1, "it does not learn: {exact:?}");
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
