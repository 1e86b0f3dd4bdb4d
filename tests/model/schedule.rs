//! The model says when: every group is asked for before it is read, and its gradients announced once they are complete.
use crate::common::*;
use llm_train::device::Device;
use llm_train::model::{Config, Decoder, Group, Pass, Recompute, Schedule, Shape};
use llm_train::ops::gemm::Into;
use llm_train::tensor::Tensor;
use std::ops::Range;

#[derive(Debug, PartialEq)]
enum Said {
    Need(usize, Pass),
    Done(usize, Pass),
    Open(usize),
    Ready(usize),
}

#[derive(Default)]
struct Ear(Vec<Said>);
impl Schedule for Ear {
    fn need(&mut self, group: usize, pass: Pass) {
        self.0.push(Said::Need(group, pass));
    }
    fn done(&mut self, group: usize, pass: Pass) {
        self.0.push(Said::Done(group, pass));
    }
    fn open(&mut self, group: usize) -> Into {
        self.0.push(Said::Open(group));
        Into::Add
    }
    fn ready(&mut self, group: usize) {
        self.0.push(Said::Ready(group));
    }
}

/// Takes the weights away when nobody needs them, and gives gradients a place only when it is opened.
struct Miser<'a> {
    dev: &'a Device,
    groups: &'a [Group],
    weights: Vec<Vec<f32>>,
    taken: Vec<Vec<f32>>,
}

fn range(r: &Range<usize>) -> Tensor {
    Tensor::range(r.start, r.end)
}

impl<'a> Miser<'a> {
    fn new(dev: &'a Device, groups: &'a [Group]) -> Miser<'a> {
        let weights = groups.iter().map(|g| dev.read(range(&g.weights))).collect();
        for g in groups {
            dev.write(range(&g.weights), &vec![f32::NAN; g.weights.len()]);
            dev.write(range(&g.grads), &vec![f32::NAN; g.grads.len()]);
        }
        Miser { dev, groups, weights, taken: vec![vec![]; groups.len()] }
    }
}

impl Schedule for Miser<'_> {
    fn need(&mut self, group: usize, _: Pass) {
        self.dev.write(range(&self.groups[group].weights), &self.weights[group]);
    }
    fn done(&mut self, group: usize, _: Pass) {
        self.dev.write(range(&self.groups[group].weights), &vec![f32::NAN; self.weights[group].len()]);
    }
    fn open(&mut self, group: usize) -> Into {
        self.dev.write(range(&self.groups[group].grads), &vec![0.0; self.weights[group].len()]);
        Into::Add
    }
    fn ready(&mut self, group: usize) {
        assert!(self.taken[group].is_empty(), "group {group} is ready twice");
        let place = range(&self.groups[group].grads);
        self.taken[group] = self.dev.read(place);
        self.dev.write(place, &vec![f32::NAN; place.len()]);
    }
}

const SHAPE: Shape = Shape { micro_batch: 2, seq: 8 };

fn run(c: &Config, recompute: Recompute, with: impl FnOnce(&Device, &Decoder, &[u32], &[u32])) {
    let (dev, decoder) = build(c, SHAPE, recompute, 2);
    with(&dev, &decoder, &tokens(16, c.vocab, 0), &tokens(16, c.vocab, 1));
}

#[test]
fn weights_are_read_and_gradients_added_only_in_between() {
    for c in FAMILIES.map(|f| golden(f).config).into_iter().chain(small()) {
        for recompute in [Recompute::None, Recompute::Block] {
            let mut expected = (0.0, vec![]);
            run(&c, recompute, |dev, decoder, x, y| {
                let loss = decoder.forward_backward(dev, &input(x, y), 1.0, &mut ());
                expected = (loss, gradients(dev, decoder));
            });
            run(&c, recompute, |dev, decoder, x, y| {
                let mut miser = Miser::new(dev, decoder.groups());
                let loss = decoder.forward_backward(dev, &input(x, y), 1.0, &mut miser);
                let taken: Vec<f32> = miser.taken.concat();
                assert!((loss, taken) == expected, "{:?} {recompute:?}", c.family);
                let again = decoder.loss(dev, &input(x, y), &mut miser);
                assert!((again - loss).abs() < 1e-5 * loss, "{again} {loss}");
            });
        }
    }
}

#[test]
fn the_itinerary_is_what_is_said() {
    for c in small() {
        run(&c, Recompute::Block, |dev, decoder, x, y| {
            let mut ear = Ear::default();
            decoder.forward_backward(dev, &input(x, y), 1.0, &mut ear);
            let need = |s: &Said| if let Said::Need(group, pass) = s { Some((*group, *pass)) } else { None };
            assert_eq!(ear.0.iter().filter_map(need).collect::<Vec<_>>(), decoder.itinerary());
            // From the head to the embedding, each group once; the place is opened before it is complete.
            let at = |said: Said| ear.0.iter().position(|s| *s == said).unwrap();
            let ready: Vec<usize> = (0..c.layers + 2).rev().map(|g| at(Said::Ready(g))).collect();
            assert!(ready.is_sorted(), "{ready:?}");
            (0..c.layers + 2).for_each(|g| assert!(at(Said::Open(g)) < at(Said::Ready(g))));
            assert_eq!(ear.0.iter().filter(|s| matches!(s, Said::Open(_) | Said::Ready(_))).count(), 2 * (c.layers + 2));
            // What is needed is given back.
            let gone = |s: &Said| if let Said::Done(group, pass) = s { Some((*group, *pass)) } else { None };
            let (mut needs, mut dones) = (decoder.itinerary(), ear.0.iter().filter_map(gone).collect::<Vec<_>>());
            needs.sort_by_key(|(g, p)| (*g, *p as u8));
            dones.sort_by_key(|(g, p)| (*g, *p as u8));
            assert_eq!(needs, dones);
        });
    }
}
