//! Energy, power, clock and memory of a GPU: from NVML to `metrics.h5` to the figures of merit. The stub's counter grows by 50 J each
//! time it is asked.
use crate::scene::{Run, tiny};
use llm_train::metrics::History;

/// The number after a key of the figures of merit.
fn figure(out: &str, key: &str) -> f64 {
    let line =
        out.lines().find_map(|line| line.strip_prefix(&format!("{key}: "))).unwrap_or_else(|| panic!("no {key} in\n{out}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn what_is_printed_is_what_metrics_hold() {
    for (ranks, devices) in [(1, "1"), (2, "2"), (2, "1")] {
        let Some(run) = Run::cuda(tiny()) else { return };
        let json = run.out.path().join("result.json");
        let run = run.and(&format!("--steps 6 --json {}", json.display())).ranks(ranks).with("STUB_DEVICES", devices);
        let ended = run.job().done();
        let history = History::read(&run.out.path().join("run/metrics.h5")).unwrap();
        let (start, steps) = (&history.starts[0], &history.steps);
        assert!(
            ["GPUs alone (NVML)", "GPUs (NVML), processors and memory (RAPL)"].contains(&start.energy_of.as_str()),
            "{}",
            start.energy_of
        );
        // The first step is warm-up. 4 sequences of 16 tokens a step.
        let joules: f64 = steps[1..].iter().map(|s| s.energy.unwrap()).sum();
        let tokens = steps[5].tokens - steps[0].tokens;
        assert_eq!(tokens, 5 * 64);
        assert!((figure(&ended.out, "tokens per joule") / (tokens as f64 / joules) - 1.0).abs() < 1e-5, "{ended}");
        assert!((figure(&ended.out, "energy (J)") / joules - 1.0).abs() < 1e-5, "{ended}");
        // A GPU that two ranks share is counted once. Between two steps a rank asks once.
        let gpus: f64 = devices.parse().unwrap();
        let each = steps[1..].iter().map(|s| s.energy.unwrap());
        if start.energy_of.starts_with("GPUs alone") {
            assert!(
                each.clone().all(|joules| (joules - 50.0 * gpus).abs() < 1e-6),
                "{ranks} ranks: {:?}",
                each.collect::<Vec<_>>()
            );
        }
        for s in steps {
            assert_eq!((s.gpu.power, s.gpu.clock), (Some(412.5), Some(1755.0)));
        }
        let peak = steps.iter().map(|s| s.gpu.memory.unwrap()).fold(0.0, f64::max);
        assert!(peak > 1e5 && figure(&ended.out, "peak GPU memory (bytes)") == peak, "{ended}");
        assert_eq!(figure(&ended.out, "GPU power (W)"), 412.5);
        let json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        assert_eq!(json["tokens_per_joule"].as_f64().unwrap(), tokens as f64 / joules);
        assert!(json["device"].as_str().unwrap().contains("H100") && json["peak_gpu_memory_bytes"] == peak as u64);
    }
}

#[test]
fn what_cannot_be_read_is_said_once_and_unknown() {
    for told in ["none", "silent"] {
        let Some(run) = Run::cuda(tiny()) else { return };
        let run = run.with("STUB_NVML", told);
        let ended = run.job().done();
        let said = ended.out.lines().filter(|line| line.starts_with("energy: not measured")).count();
        assert!(said == 1 && ended.out.contains("does not tell it"), "{told}: {ended}");
        assert!(!ended.out.contains("tokens per joule") && !ended.out.contains("GPU power"), "{ended}");
        let history = History::read(&run.out.path().join("run/metrics.h5")).unwrap();
        assert_eq!(history.starts[0].energy_of, "");
        assert!(history.steps.iter().all(|s| s.energy.is_none() && s.gpu.power.is_none() && s.gpu.memory.is_some()));
    }
}
