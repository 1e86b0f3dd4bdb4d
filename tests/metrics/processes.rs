//! What other processes see and do: kill -9, a follower, a full disk.
//!
//! Some tests need a second process: they run this test binary again with `child` as the only test and the part to play
//! in the environment.
use crate::*;

/// What a child process plays; a test in name only when the environment does not ask for it.
#[test]
fn child() {
    let Ok(part) = std::env::var("METRICS_TEST_PART") else { return };
    let path = PathBuf::from(std::env::var("METRICS_TEST_FILE").unwrap());
    match part.as_str() {
        "write until killed" => {
            let mut file = open(&path, None);
            for step in 1.. {
                file.append(&record(step)).unwrap();
                if step % 50 == 0 {
                    file.eval("held-out", step, 1.0).unwrap(); // flushes
                    println!("\nflushed {step}");
                }
            }
        }
        "write until it fails" => {
            let mut file = open(&path, None);
            let why = (1..).find_map(|step| file.append(&record(step)).and_then(|()| file.flush()).err()).unwrap();
            println!("\nfailed {}", why.exit_code());
            println!("\nsaid {why}");
        }
        "follow" => {
            let file = File::open_as(&path, OpenMode::ReadSWMR).unwrap();
            let loss = file.dataset("train/loss").unwrap();
            println!("\nfollowing");
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut seen = 0;
            while seen < 3000 && Instant::now() < deadline {
                loss.refresh().unwrap();
                let values: Vec<f64> = loss.read_raw().unwrap();
                assert!(values.len() >= seen, "rows vanished: {} after {seen}", values.len());
                values.iter().zip(1..).for_each(|(v, step)| assert_eq!(*v, record(step).loss, "step {step}"));
                if values.len() > seen {
                    println!("\nsaw {}", values.len());
                }
                seen = values.len();
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        other => panic!("unknown part {other}"),
    }
}

fn play(part: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::child", "--nocapture"]).stdout(Stdio::piped());
    command.env("METRICS_TEST_PART", part).env("METRICS_TEST_FILE", path);
    command
}

/// The rest of the next line that the child begins with `word`.
fn wait_for(child: &mut BufReader<std::process::ChildStdout>, word: &str) -> String {
    let mut line = String::new();
    while child.read_line(&mut line).unwrap() > 0 {
        if let Some(rest) = line.trim_end().strip_prefix(word) {
            return rest.trim().to_string();
        }
        line.clear();
    }
    panic!("the child ended without saying {word:?}");
}

fn piped(mut command: Command) -> (Child, BufReader<std::process::ChildStdout>) {
    let mut child = command.spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

#[test]
fn survives_kill_9() {
    let (_dir, path) = folder();
    let (mut child, mut out) = piped(play("write until killed", &path));
    let mut flushed = 0;
    while flushed < 300 {
        flushed = wait_for(&mut out, "flushed").parse().unwrap();
    }
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();

    let left = History::read(&path).unwrap();
    assert!(left.steps.len() >= flushed as usize, "{} rows of {flushed} flushed", left.steps.len());
    left.steps.iter().zip(1..).for_each(|(r, step)| assert_eq!(*r, record(step)));
    let mut file = open(&path, Some(250));
    write(&mut file, 251..261);
    file.close().unwrap();
    let history = History::read(&path).unwrap();
    assert_eq!(history.steps, (1..261).map(record).collect::<Vec<_>>());
    assert_eq!(history.starts.len(), 2);
    File::open(&path).expect("plain HDF5 opens it again");
}

#[test]
fn a_follower_sees_rows_as_they_come_and_does_not_hinder_a_resume() {
    let (_dir, path) = folder();
    let mut file = open(&path, None);
    file.flush().unwrap();
    let (mut child, mut out) = piped(play("follow", &path));
    wait_for(&mut out, "following");
    let mut saw = 0;
    for step in 1..3001 {
        file.append(&record(step)).unwrap();
        if step % 100 == 0 {
            file.flush().unwrap();
        }
        if step == 1500 {
            file.flush().unwrap();
            while saw < 1500 {
                saw = wait_for(&mut out, "saw").parse().unwrap(); // while the writer has it open
            }
            drop(file);
            file = open(&path, Some(1500)); // the follower is still attached
            child.kill().unwrap();
            child.wait().unwrap();
            (child, out) = piped(play("follow", &path));
            wait_for(&mut out, "following");
            saw = 0;
        }
    }
    file.flush().unwrap();
    while saw < 3000 {
        saw = wait_for(&mut out, "saw").parse().unwrap();
    }
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_unwritable_place_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/metrics.h5");
    let Err(Error::Failed(why)) = MetricsFile::open(&path, &start(), &ranks(), &[], None) else { panic!("it opened") };
    assert!(why.contains("file/metrics.h5") && why.contains("cannot be written") && !why.contains('\n'), "{why}");
}

#[test]
fn a_missing_or_foreign_file_is_named() {
    let (_dir, path) = folder();
    let missing = History::read(&path).unwrap_err();
    assert!(matches!(&missing, Error::Input(why) if why.contains("metrics.h5") && why.contains("no such file")), "{missing}");
    std::fs::write(&path, "hello").unwrap();
    let foreign = History::read(&path).unwrap_err();
    assert!(matches!(&foreign, Error::Input(why) if why.contains("metrics.h5") && !why.contains('\n')), "{foreign}");
}

/// `ulimit -f` makes writes past 200 blocks fail, as a full disk does.
#[test]
fn a_full_disk_is_a_failure_that_names_the_file() {
    let (_dir, path) = folder();
    let limited = play("write until it fails", &path);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""]).arg(limited.get_program()).args(limited.get_args());
    shell.envs(limited.get_envs().filter_map(|(key, value)| Some((key, value?)))).stdout(Stdio::piped());
    let (mut child, mut out) = piped(shell);
    assert_eq!(wait_for(&mut out, "failed"), "1");
    let why = wait_for(&mut out, "said");
    assert!(why.contains("metrics.h5") && why.contains("cannot be written") && why.contains("File too large"), "{why}");
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended}: it must end in order, not in a crash");
}
