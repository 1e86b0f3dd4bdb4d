//! `report`: the page in HTML, and `--live` beside a run.
use crate::program::{Job, PROGRAM, alone, ranks};
use crate::scene::Scene;
use hdf5::File;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// A folder and a corpus whose names would break a careless page.
const NAME: &str = "<b>&amp;\"'";
const HELD_OUT: &str = "v<&>l.bin";

fn reals(file: &File, name: &str) -> Vec<f64> {
    file.dataset(name).unwrap().read_raw().unwrap()
}

#[test]
fn the_page_is_whole_by_itself_and_its_figures_are_the_files() {
    let scene = Scene::new();
    let val = scene.corpus(HELD_OUT, (30_000..32_000).map(crate::scene::token));
    let options = format!("{} --val-data {val} --eval-every 4 --save-every 4 --keep 3", scene.options(NAME));
    ranks(2, &format!("{options} --steps 8")).done();
    ranks(2, &format!("{options} --steps 20")).done();
    let left = scene.run(NAME);
    // The run itself leaves it; `report` writes the same, but for the time of day.
    let page = |what: &str| {
        let page = std::fs::read_to_string(left.0.join("report.html")).unwrap_or_else(|e| panic!("{what}: {e}"));
        std::fs::remove_file(left.0.join("report.html")).unwrap();
        page
    };
    let by_the_run = page("by the run");
    let said = alone(&format!("report {}", left.0.display())).done();
    let page = page("by report");
    // A loss stands where it was measured: beside every other of ten rows of two steps.
    let rows: Vec<&str> = said.out.lines().skip_while(|l| !l.contains("loss (mean)")).skip(1).take(10).collect();
    let measured = |row: &&str| !row.ends_with(" -");
    assert_eq!(rows.iter().map(measured).collect::<Vec<_>>(), [false, true].repeat(5), "{said}");
    let without_time = |page: &str| page.lines().filter(|line| !line.contains("<footer>")).collect::<Vec<_>>().join("\n");
    assert!(without_time(&by_the_run) == without_time(&page), "the run's page is another than the report's");

    // Well-formed, also as XML; everything within.
    let reading = roxmltree::ParsingOptions { allow_dtd: true, ..Default::default() };
    let tree = roxmltree::Document::parse_with_options(&page, reading).unwrap_or_else(|e| panic!("{e}\n{page}"));
    let elements = || tree.descendants().filter(|n| n.is_element());
    let foreign = ["script", "link", "img", "iframe", "object", "embed", "base", "form"];
    assert!(elements().all(|n| !foreign.contains(&n.tag_name().name())));
    for attribute in elements().flat_map(|n| n.attributes()) {
        assert!(!["src", "href", "srcset", "data", "action"].contains(&attribute.name()) && !attribute.name().starts_with("on"));
    }
    for sign in ["http:", "https:", "url(", "@import", "NaN", "<b>&amp;\"", "v<&>", "undefined"] {
        assert!(!page.contains(sign), "{sign}");
    }
    assert!(page.len() < 150_000, "{} bytes", page.len());
    assert_eq!(elements().filter(|n| n.tag_name().name() == "svg").count(), 5);
    // A name is text wherever it stands.
    let title = elements().find(|n| n.tag_name().name() == "title").unwrap();
    assert_eq!(title.text(), Some(NAME));
    let inside = |n: roxmltree::Node| n.descendants().filter(|d| d.is_text()).filter_map(|d| d.text()).collect::<String>();
    let words = |tag: &str| elements().filter(|n| n.tag_name().name() == tag).map(inside).collect::<String>();
    assert!(words("pre").contains("[batch]") && words("code").contains(NAME), "configuration and command line");
    assert!(words("span").contains("done") && words("span").contains("went on on 2 ranks"), "{}", words("span"));

    // Every figure, formed here anew from the bare datasets.
    let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for node in elements().filter(|n| n.tag_name().name() == "data") {
        let value = node.attribute("value").unwrap();
        let number = value.parse().unwrap_or_else(|_| panic!("{value}"));
        figures.entry(node.attribute("data-key").unwrap()).or_default().push(number);
    }
    let h5 = File::open(left.0.join("metrics.h5")).unwrap();
    // The latest start ran steps 9 to 20; the first of those twelve is warm-up.
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let counted = |name: &str| reals(&h5, name)[9..].to_vec();
    let whole = mean(&counted("train/step_time"));
    let part = |name: &str| mean(&counted(&format!("train/{name}_time")));
    let named = [("data", "data"), ("forward", "forward"), ("backward", "backward"), ("optimizer", "optimizer")];
    let mut expected = vec![
        ("final loss".to_string(), *reals(&h5, "train/loss").last().unwrap()),
        (format!("held-out loss, {HELD_OUT}"), *reals(&h5, &format!("eval/{HELD_OUT}/loss")).last().unwrap()),
        ("tokens/s".into(), mean(&counted("train/tokens_per_second"))),
        ("step time (s)".into(), whole),
        ("TFLOP/s per device".into(), mean(&counted("train/tflops"))),
        ("exposed communication".into(), part("comm_exposed") / whole),
        ("exposed communication (s)".into(), part("comm_exposed")),
        ("seconds in steps".into(), reals(&h5, "train/step_time").iter().sum()),
        ("step".into(), 20.0),
        ("tokens".into(), 20.0 * 128.0),
        ("parameters".into(), h5.dataset("starts/parameters").unwrap().read_raw::<i64>().unwrap()[1] as f64),
    ];
    for (shown, column) in named {
        expected.push((format!("{shown} (s)"), part(column)));
        expected.push((format!("{shown} (share)"), part(column) / whole));
    }
    for (key, value) in &expected {
        let found = figures.get(key.as_str()).unwrap_or_else(|| panic!("no {key} in {:?}", figures.keys()));
        assert!((found[0] - value).abs() <= 1e-9 * value.abs(), "{key}: {} for {value}", found[0]);
    }
    let shares: f64 = figures.iter().filter(|(key, _)| key.ends_with("(share)")).map(|(_, v)| v[0]).sum();
    assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    // The figures of merit are those on the terminal.
    for key in ["tokens/sec/gpu", "elapsed time per iteration (s)", "final loss", "time to first step (s)"] {
        let printed: f64 = said.after(&format!("{key}: ")).split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(figures[format!("merit: {key}").as_str()], [printed], "{key}");
    }
    // Newest first, with the bytes that lie there.
    assert_eq!(figures["checkpoint"], [20.0, 16.0, 12.0]);
    let files = std::fs::read_dir(left.checkpoint(20)).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
    assert_eq!(figures["checkpoint bytes"][0], files as f64);

    // A start that found everything done.
    ranks(2, &format!("{options} --steps 20")).done();
    let said = alone(&format!("report {}", left.0.display())).done();
    assert_eq!(said.out.lines().filter(|line| line.contains("ran no step")).count(), 1, "{said}");

    // A damaged checkpoint is said to be one.
    std::fs::remove_file(left.checkpoint(16).join("config.json")).unwrap();
    alone(&format!("report {} --output {}", left.0.display(), scene.path("other.svg"))).done();
    let page = std::fs::read_to_string(scene.path("other.html")).unwrap();
    assert!(page.contains("damaged: ") && page.contains("config.json"));
}

#[test]
fn a_run_is_followed_over_a_stop_and_a_resume() {
    let scene = Scene::new();
    let left = scene.run("run");
    let mut live = alone(&format!("report --live --every 1 {}", left.0.display())).start();
    let options = format!("{} --max-time 600", scene.options("run"));
    let mut first = alone(&format!("{options} --steps 10000000")).start();
    live.until_step(1);
    first.until_step(20);
    first.send("USR1", first.child.id());
    first.end_within(Duration::from_secs(60)).with_code(75);
    let stopped = *left.steps().last().unwrap();
    live.until_said("waiting for its next start");
    std::thread::sleep(Duration::from_millis(1500)); // another look
    assert!(live.child.try_wait().unwrap().is_none(), "one that can be gone on with has not ended");
    alone(&format!("{options} --steps {}", stopped + 3)).done();
    let ended = live.end_within(Duration::from_secs(60)).with_code(0);
    let place = |words: &str| ended.out.find(words).unwrap_or_else(|| panic!("no {words:?}\n{ended}"));
    let order = [
        place("waiting for "),
        place("run began, 1 rank on "),
        place("\nstep "),
        place(&format!("event step {stopped} stopped early")),
        place("waiting for its next start"),
        place(&format!("run went on after step {stopped}")),
        place(&format!("step {0}/{0} loss ", stopped + 3)),
        place(&format!("done after step {}", stopped + 3)),
    ];
    assert!(order.is_sorted(), "{order:?}\n{ended}");
    assert!(ended.out.contains("tokens/s ") && ended.out.contains("exposed_communication ") && ended.out.contains(" ETA "));
}

/// `script` lends a terminal.
#[test]
fn on_a_terminal_the_same_lines_are_drawn_again() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no `script` here to lend a terminal");
        return;
    }
    let scene = Scene::new();
    let out = scene.path("run");
    let mut watched = Command::new("script");
    watched.args(["-qefc", &format!("stty rows 30 cols 90; {PROGRAM} report --live {out}"), "/dev/null"]);
    let mut live = Job::new(watched).start();
    live.until_said("not there yet");
    // Long enough to be looked at in the middle: the terminal is looked at once a second.
    let run = alone(&format!("{} --steps 10000000 --max-time 600", scene.options("run"))).start();
    live.until_said("exposed communication");
    run.send("USR1", run.child.id());
    run.end_within(Duration::from_secs(60)).with_code(75);
    let stopped = *scene.run("run").steps().last().unwrap();
    alone(&format!("{} --steps {}", scene.options("run"), stopped + 2)).done();
    let ended = live.end_within(Duration::from_secs(60)).with_code(0);
    for words in ["waiting for ", "not there yet", "running", "tokens/s", "exposed communication", " left", "done", "\u{1b}[2K"] {
        assert!(ended.out.contains(words), "no {words:?}\n{ended}");
    }
    assert!(ended.out.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "a curve of dots");
    // Upwards by as many lines as were drawn.
    assert!(ended.out.contains("\u{1b}[1A"), "the waiting line is replaced");
}

#[test]
fn what_cannot_be_followed_is_said() {
    let scene = Scene::new();
    let file = scene.write("metrics.h5", "not HDF5 at all");
    alone(&format!("report --live {file}")).run().with_code(2).sentence(&["metrics.h5", "another kind of file"]);
    alone(&format!("report --every 3 {file}")).run().with_code(2).sentence(&["--live"]);
}
