//! Where the parameters lie, and with what they are first filled.
use crate::common::*;
use llm_train::model::{Config, Decoder, Recompute, Shape};
use llm_train::tensor::{ALIGN, Kind, Plan, Tensor};

const SMALL: Shape = Shape { micro_batch: 1, seq: 4 };

#[test]
fn every_parameter_lies_in_its_group_and_nowhere_else() {
    let configs = FAMILIES.map(|f| golden(f).config).into_iter().chain(small());
    for (c, ranks) in configs.flat_map(|c| [1, 3, 7].map(|r| (c.clone(), r))) {
        let mut plan = Plan::default();
        plan.vector(Kind::Workspace, 5);
        let decoder = Decoder::plan(&mut plan, &c, SMALL, Recompute::Block, ranks);
        let (groups, parameters) = (decoder.groups(), decoder.parameters());
        assert_eq!(groups.len(), c.layers + 2);
        for pair in groups.windows(2) {
            assert_eq!(pair[0].weights.end, pair[1].weights.start);
            assert_eq!(pair[0].grads.end, pair[1].grads.start);
        }
        for g in groups {
            assert!(g.weights.start % ALIGN == 0 && g.weights.len() % (ranks * ALIGN) == 0, "{g:?}");
            assert_eq!(g.weights.len(), g.grads.len());
        }
        let mut elements = 0;
        let mut taken: Vec<Tensor> = vec![];
        for p in parameters {
            let g = &groups[p.group];
            assert!(g.weights.start <= p.weights.at && p.weights.end() <= g.weights.end, "{p:?} {g:?}");
            assert_eq!(p.weights.at - g.weights.start, p.grads.at - g.grads.start, "{}", p.name);
            assert_eq!((p.weights.rows, p.weights.cols), (p.grads.rows, p.grads.cols));
            // Matrices are decayed, vectors are not.
            let decayed = p.weights.at < g.weights.start + g.decayed;
            assert!(decayed == (p.shape.len() == 2) && decayed == (p.weights.end() <= g.weights.start + g.decayed), "{p:?}");
            let shape = if p.transposed { [p.weights.cols, p.weights.rows] } else { [p.weights.rows, p.weights.cols] };
            assert_eq!(p.shape.as_slice(), if p.shape.len() == 2 { &shape[..] } else { &shape[1..] }, "{}", p.name);
            for place in [p.weights, p.grads] {
                assert!(taken.iter().all(|t| !t.meets(place)), "{} lies on another", p.name);
                taken.push(place);
            }
            elements += p.weights.len() as u64;
        }
        assert_eq!(elements, c.parameter_count());
    }
}

#[test]
fn names_and_shapes_are_those_of_the_files() {
    for family in FAMILIES {
        let golden = golden(family);
        let decoder = Decoder::plan_inference(&mut Plan::default(), &golden.config, SMALL, 1);
        let mut names: Vec<&str> = decoder.parameters().iter().map(|p| p.name.as_str()).collect();
        names.sort_unstable();
        let mut expected: Vec<&str> = golden.model.keys().map(String::as_str).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let bytes = std::fs::read(path(family, "model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for p in decoder.parameters() {
            assert_eq!(p.shape, file.tensor(&p.name).unwrap().shape(), "{}", p.name);
        }
    }
}

#[test]
fn first_values_are_a_function_of_seed_name_and_index() {
    let c = golden("qwen2").config;
    let values = |ranks, seed| {
        let mut plan = Plan::default();
        let decoder = Decoder::plan_inference(&mut plan, &c, SMALL, ranks);
        let dev = cpu(&plan, llm_train::device::Precision::Fp32);
        decoder.init(&dev, seed);
        decoder.parameters().iter().map(|p| (p.name.clone(), dev.read(p.weights))).collect::<Vec<_>>()
    };
    let (one, five, other) = (values(1, 1), values(5, 1), values(1, 2));
    assert!(one == five && one != other);
    for (i, (name, w)) in one.iter().enumerate().filter(|(_, (_, w))| w.len() > 256) {
        assert!(one[..i].iter().all(|(_, v)| v[..9] != w[..9]), "{name} is filled like another");
    }
    // A known value: changing the generator would change every run's start.
    assert_eq!((one[0].0.as_str(), &one[0].1[..2]), ("model.embed_tokens.weight", &[-0.016173571, -0.023597207][..]));
}

#[test]
fn first_values_follow_the_papers() {
    let std = |w: &[f32]| norm(w) / (w.len() as f64).sqrt();
    for family in FAMILIES {
        let c = golden(family).config;
        let (dev, decoder) = build(&c, SMALL, Recompute::None, 1);
        for p in decoder.parameters() {
            let w = dev.read(p.weights);
            if p.shape.len() == 1 {
                let gain =
                    p.name.contains("norm") && p.name.ends_with("weight") || p.name.contains("ln_") && p.name.ends_with("weight");
                assert!(w.iter().all(|x| *x == if gain { 1.0 } else { 0.0 }), "{}", p.name);
                continue;
            }
            let into_residual = family == "gpt2" && p.name.contains("c_proj");
            let expected = if into_residual { 0.02 / 2.0 } else { 0.02 };
            assert!((std(&w) / expected - 1.0).abs() < 0.06, "{}: {}", p.name, std(&w));
        }
    }
}

#[test]
fn the_plan_counts_what_the_shapes_say() {
    let c = Config::preset("gpt2").unwrap();
    let mut plan = Plan::default();
    Decoder::plan(&mut plan, &c, Shape { micro_batch: 4, seq: 256 }, Recompute::None, 4);
    let parameters = plan.bytes(Kind::Parameters) as f64 / (4.0 * c.parameter_count() as f64);
    assert!((1.0..1.001).contains(&parameters), "{parameters}");
    assert_eq!(plan.bytes(Kind::Parameters), plan.bytes(Kind::Gradients));
    // The logits of all 1,024 rows would be 206 MB; at most 384 at a time, in equal parts, are 69.
    assert!((69_000_000..78_000_000).contains(&plan.bytes(Kind::Workspace)), "{}", plan.bytes(Kind::Workspace));
}
