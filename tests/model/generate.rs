//! Text written token by token equals the whole pass.
use crate::common::*;
use llm_train::device::{Cpu, Precision};
use llm_train::model::{Generator, Sampling};
use llm_train::tensor::Plan;

#[test]
fn kept_keys_and_values_give_the_logits_of_the_whole_pass() {
    for family in FAMILIES {
        let golden = golden(family);
        let mut plan = Plan::default();
        let mut writer = Generator::plan(&mut plan, &golden.config, 48).unwrap();
        let dev = cpu(&plan, Precision::Fp32);
        writer.prepare(&dev);
        load(&dev, writer.decoder(), &golden.model);
        let row = |n: usize| &golden.expected["logits"][n * 512..][..512];
        for prompt in [1, 7, 47] {
            writer.clear();
            for end in prompt..=48 {
                let new = if end == prompt { 0 } else { end - 1 };
                writer.feed(&dev, &golden.tokens[new..end]).unwrap();
                let logits = writer.logits(&dev);
                let off = widest(&logits, row(end - 1));
                assert!(off <= 1e-4, "{family}: prompt of {prompt}, token {end}: {off:e}");
            }
        }
        // Several more tokens at once; then the context is full.
        writer.clear();
        writer.feed(&dev, &golden.tokens[..5]).unwrap();
        writer.feed(&dev, &golden.tokens[5..48]).unwrap();
        let logits = writer.logits(&dev);
        assert!(widest(&logits, row(47)) <= 1e-4, "{family}");
        assert_eq!((writer.len(), writer.room()), (48, 0));
        let full = writer.feed(&dev, &[1]).unwrap_err().to_string();
        assert_eq!(full, "1 tokens are to be read, expected at most 0: the context of 48 holds 48");
        assert!(writer.feed(&dev, &[]).is_err());
    }
}

/// The likeliest tokens by the head in bf16 and a few of its rows are those of all logits.
#[test]
fn the_likeliest_tokens_are_those_of_all_logits() {
    let likeliest = Sampling { temperature: 0.0, ..Sampling::default() };
    for family in FAMILIES {
        let golden = golden(family);
        let text = |screened: bool| {
            let mut plan = Plan::default();
            let mut writer = Generator::plan(&mut plan, &golden.config, 48).unwrap();
            if screened {
                let before = plan.len();
                writer = writer.likeliest(&mut plan);
                assert!(plan.len() > before, "{family}: no screen");
            }
            let dev = cpu(&plan, Precision::Fp32);
            load(&dev, writer.decoder(), &golden.model);
            writer.prepare(&dev);
            let mut tokens = golden.tokens[..5].to_vec();
            writer.feed(&dev, &tokens).unwrap();
            while writer.room() > 0 {
                let next = writer.draw(&dev, &likeliest, 0);
                tokens.push(next);
                writer.feed(&dev, &[next]).unwrap();
            }
            tokens
        };
        assert_eq!(text(true), text(false), "{family}");
    }
}

/// Weights kept in bf16 are what a bf16 product rounds to: the same logits, to the last bit, also after one was changed.
#[test]
fn copies_in_bf16_give_the_logits_of_bf16() {
    for family in FAMILIES {
        let golden = golden(family);
        let logits = |mut plan: Plan| {
            let mut writer = Generator::plan(&mut plan, &golden.config, 48).unwrap();
            let dev = cpu(&plan, Precision::Bf16);
            writer.prepare(&dev);
            load(&dev, writer.decoder(), &golden.model);
            writer.feed(&dev, &golden.tokens[..3]).unwrap();
            let first = writer.logits(&dev);
            writer.feed(&dev, &golden.tokens[3..5]).unwrap();
            let second = writer.logits(&dev);
            let last = writer.decoder().parameters().iter().rfind(|p| p.shape.len() == 2).unwrap().weights;
            dev.write(last.rows(1, 2), &vec![0.25; 2 * last.cols]);
            writer.feed(&dev, &golden.tokens[5..6]).unwrap();
            (first, second, writer.logits(&dev))
        };
        let (all, copies) = (logits(Plan::default()), logits(Cpu::plan(Precision::Bf16)));
        assert_eq!(all, copies, "{family}");
    }
}

#[test]
fn a_text_longer_than_the_context_is_refused() {
    let config = golden("gpt2").config;
    let refused = Generator::plan(&mut Plan::default(), &config, 65).err().unwrap().to_string();
    assert_eq!(refused, "sequence length is 65, expected at most the model's n_positions 64");
}
