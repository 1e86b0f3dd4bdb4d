//! What is written is read back, over resumes too.
use crate::*;

#[test]
fn numbers_read_back_equal() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    write(&mut file, 1..26);
    file.eval("code", 25, 1.25).unwrap();
    file.event(25, "saved checkpoints/step-00000025").unwrap();
    file.event(25, &"ä".repeat(500)).unwrap();
    file.first_step(1.75).unwrap();
    file.close().unwrap();

    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..26).map(record).collect::<Vec<_>>());
    assert_eq!(history.ranks, ranks());
    let written = &history.starts[0];
    assert!(written.time > 1.7e9, "{}", written.time);
    assert_eq!(*written, Start { time: written.time, ranks: 2, first_step: Some(1.75), ..start() });
    let [held_out, code] = &history.evaluations[..] else { panic!("{:?}", history.evaluations) };
    assert_eq!((&held_out.set, &code.set), (&sets()[0], &sets()[1]));
    assert_eq!(held_out.points.iter().map(|p| p.step).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(code.points[0].loss, 1.25);
    assert_eq!(history.events[0].text, "saved checkpoints/step-00000025");
    assert_eq!(history.events[1].text, "ä".repeat(120), "cut at a whole character");
    // Plain HDF5 opens it now, and every dataset says what it is.
    let plain = File::open(&path).unwrap();
    for group in ["train", "eval/code", "starts", "ranks", "events"] {
        for dataset in plain.group(group).unwrap().datasets().unwrap() {
            let texts = dataset.attr_names().unwrap();
            assert!(texts.contains(&"units".to_string()) && texts.contains(&"long_name".to_string()), "{}", dataset.name());
        }
    }
}

#[test]
fn a_resume_cuts_and_appends() {
    let (_dir, path) = folder();
    run(&path, 35);
    std::fs::write(path.with_extension("h5.new"), "left by a start that was killed").unwrap();
    let mut file = open(&path, Some(20));
    write(&mut file, 21..31);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..31).map(record).collect::<Vec<_>>(), "no step twice, none missing");
    assert_eq!(history.evaluations[0].points.iter().map(|p| p.step).collect::<Vec<_>>(), [10, 20, 30]);
    assert_eq!(history.starts.iter().map(|s| s.resumed_step).collect::<Vec<_>>(), [0, 20]);
    assert_eq!(history.latest_steps().len(), 10);
}

#[test]
fn a_start_that_found_all_done_hides_no_figures() {
    let (_dir, path) = folder();
    run(&path, 35);
    let before = Summary::read(&path).unwrap();
    assert!(before.steps.is_some());
    open(&path, Some(35)).close().unwrap();
    assert_eq!(History::read(&path).unwrap().starts.len(), 2);
    assert_eq!(Summary::read(&path).unwrap(), before);
}

/// Another start may evaluate on other tokens: what was measured before keeps its own bytes.
#[test]
fn an_evaluation_keeps_its_bytes_per_token() {
    let (_dir, path) = folder();
    run(&path, 25);
    let bits = |set: usize| Summary::read(&path).unwrap().evals[set].bits_per_byte.unwrap();
    let expected = |step: u64, bytes: f64| (record(step).loss + 0.1) / std::f64::consts::LN_2 / bytes;
    assert_eq!(bits(0), expected(20, 3.5));
    let other = [EvalSet { name: "held-out".into(), bytes_per_token: Some(7.0) }];
    let mut file = MetricsFile::open(&path, &start(), &ranks(), &other, Some(25)).unwrap();
    file.flush().unwrap();
    assert_eq!(bits(0), expected(20, 3.5), "an evaluation of the start before");
    write(&mut file, 26..31);
    file.close().unwrap();
    assert_eq!(bits(0), expected(30, 7.0));
}

#[test]
fn a_second_evaluation_at_a_step_replaces_the_first() {
    let (_dir, path) = folder();
    run(&path, 10);
    let mut file = open(&path, Some(10));
    file.eval("held-out", 10, 3.0).unwrap();
    file.eval("held-out", 12, 2.0).unwrap();
    file.close().unwrap();
    let points = &History::read(&path).unwrap().evaluations[0].points;
    assert_eq!(points.iter().map(|p| (p.step, p.loss)).collect::<Vec<_>>(), [(10, 3.0), (12, 2.0)]);
}

#[test]
#[should_panic(expected = "step 10 after step 10")]
fn no_step_stands_twice() {
    let (_dir, path) = folder();
    run(&path, 10);
    let _ = open(&path, Some(10)).append(&record(10));
}

#[test]
fn a_new_run_keeps_the_old_file() {
    let (dir, path) = folder();
    run(&path, 3);
    run(&path, 5);
    assert_eq!(History::read(&path).unwrap().steps.len(), 5);
    assert_eq!(History::read(&dir.path().join("metrics.1.h5")).unwrap().steps.len(), 3);
}

#[test]
fn a_ruined_file_does_not_stop_a_resume() {
    let (dir, path) = folder();
    std::fs::write(&path, "not HDF5").unwrap();
    let mut file = open(&path, Some(20));
    write(&mut file, 21..23);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps.iter().map(|r| r.step).collect::<Vec<_>>(), [21, 22]);
    let [Event { text, .. }] = &history.events[..] else { panic!("{:?}", history.events) };
    assert!(text.contains("metrics.1.h5"), "{text}");
    assert!(dir.path().join("metrics.1.h5").exists());
}
