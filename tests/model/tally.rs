//! What the ops note of a pass is what the model counts.
use crate::common::*;
use llm_train::device::{Device, Row};
use llm_train::model::{Config, Input, Recompute, Shape};

const SHAPE: Shape = Shape { micro_batch: 3, seq: 8 };

/// The notes of one forward and backward.
fn notes(c: &Config, recompute: Recompute, starts: Option<&[u32]>) -> Vec<Row> {
    let (dev, model) = build(c, SHAPE, recompute, 1);
    let rows = SHAPE.micro_batch * SHAPE.seq;
    let (tokens, targets) = (tokens(rows, c.vocab, 1), tokens(rows, c.vocab, 2));
    let Device::Cpu(cpu) = &dev else { unreachable!() };
    cpu.tally.start();
    dev.install(|| model.forward_backward(&dev, &Input { starts, ..input(&tokens, &targets) }, 1.0, &mut ()));
    cpu.tally.stop()
}

fn flops(rows: &[Row], which: impl Fn(&Row) -> bool) -> f64 {
    rows.iter().filter(|r| which(r)).map(|r| r.flops).sum()
}

#[test]
fn floating_point_operations_are_those_of_the_plan() {
    for c in small() {
        // without padding, which is multiplied but not counted
        let c = Config { vocab: 256, ..c };
        let rows = notes(&c, Recompute::None, None);
        let plan = c.flops_per_token(SHAPE.seq);
        let (tokens, seq) = ((SHAPE.micro_batch * SHAPE.seq) as f64, SHAPE.seq as f64);
        let attention = 2.0 * (plan.full - plan.causal);
        let is_attention = |r: &Row| r.name.starts_with("attention");
        assert_eq!(flops(&rows, |r| !is_attention(r)), tokens * (plan.full - attention), "{rows:#?}");
        // the plan takes T / 2 keys a row; they are (T + 1) / 2
        assert_eq!(flops(&rows, is_attention), tokens * attention / 2.0 * (seq + 1.0) / seq, "{rows:#?}");
        let head = |r: &Row| r.part == "head";
        assert_eq!(flops(&rows, head), tokens * 6.0 * (c.vocab * c.width) as f64, "{rows:#?}");
        let products = ["linear forward", "linear dx", "linear dW"];
        let each = products.map(|name| flops(&rows, |r| r.name == name));
        assert!(each[0] == each[1] && each[1] == each[2], "{each:?}");
    }
}

#[test]
fn what_is_computed_again_is_noted_again() {
    let [c, _] = small();
    let forward = |rows: &[Row]| flops(rows, |r| r.name == "attention forward");
    let (once, twice) = (notes(&c, Recompute::None, None), notes(&c, Recompute::Block, None));
    assert_eq!(2.0 * forward(&once), forward(&twice));
}

#[test]
fn keys_of_other_documents_are_not_counted() {
    let [c, _] = small();
    // two documents of four tokens in each sequence: 2 · (1 + 2 + 3 + 4) pairs in place of 1 + … + 8
    let starts = [0, 0, 0, 0, 4, 4, 4, 4].repeat(SHAPE.micro_batch);
    let attention = |rows: &[Row]| flops(rows, |r| r.name.starts_with("attention"));
    let (all, apart) = (notes(&c, Recompute::None, None), notes(&c, Recompute::None, Some(&starts)));
    assert_eq!(attention(&apart) / attention(&all), 20.0 / 36.0);
}

#[test]
fn bytes_are_the_operands() {
    let [c, _] = small();
    let rows = notes(&c, Recompute::None, None);
    let of = |part, name| rows.iter().find(|r| (r.part, r.name) == (part, name)).unwrap();
    let n = SHAPE.micro_batch * SHAPE.seq;
    // y, x and, for the two of each block and the last one, statistics, γ and β
    let norm = of("", "norm forward");
    assert_eq!(norm.bytes, (4 * (2 * c.layers + 1) * (2 * n * c.width + 2 * n + 2 * c.width)) as f64);
    let dw = of("head", "linear dW");
    assert_eq!(dw.bytes, (4 * dw.calls as usize * 2 * c.vocab_rows() * c.width + 4 * n * (c.vocab_rows() + c.width)) as f64);
}
