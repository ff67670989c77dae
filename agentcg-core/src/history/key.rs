//! [`CommandKey`]: what the runs of "the same command" have in common.

use std::ffi::OsStr;
use std::fmt;

use super::shell;

/// A command line without what changes from run to run, so that its history can be found again.
///
/// | command line | key |
/// |---|---|
/// | `python3.11 -m pytest -x tests/a.py` | `python -m pytest` |
/// | `/usr/bin/python3 scripts/train.py --epochs 3` | `python train.py` |
/// | `RUST_LOG=debug cargo test -p core` | `cargo test` |
/// | `bash -lc 'cd /src && make -j8 check 2>&1 \| tail -20'` | `make check` |
/// | `npm run build && npm test` | `npm run build; npm test` |
/// | `timeout 60 ./a.out --size 10` | `a.out` |
///
/// | part | rule |
/// |---|---|
/// | program | its file name, without the version at its end |
/// | assignments, `env`, `sudo`, `nice`, `timeout`, `uv run`, `npx` and the like | dropped with their options |
/// | a shell with `-c`, `eval` | each simple command of the script by these rules, up to four different ones; builtins like `cd` and `echo`, and filters like `tail` and `grep`, only when there is nothing else |
/// | an interpreter | its module (`-m`), that there is code (`-c`), or the file name of the script |
/// | a program with subcommands (cargo, git, go, make, npm, ...) | the subcommand, or the first target; two words for `npm run`, `docker compose` and the like |
/// | options and their values, paths, numbers, hashes, all other words | dropped |
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandKey(String);

/// A program, and its options that take a value as the next word.
type WithValues = (&'static str, &'static [&'static str]);

/// They run another program; some only after a subcommand.
const WRAPPERS: &[(&str, Option<&str>, &[&str])] = &[
    ("env", None, &["-u", "-C", "--unset", "--chdir"]),
    ("sudo", None, &["-u", "-g", "-h", "-p", "-C", "-D", "-R", "-T", "--user", "--group"]),
    ("doas", None, &["-u", "-C"]),
    ("nice", None, &["-n"]),
    ("ionice", None, &["-c", "-n"]),
    ("chrt", None, &[]),
    ("taskset", None, &[]),
    ("timeout", None, &["-s", "-k", "--signal", "--kill-after"]),
    ("time", None, &["-f", "-o"]),
    ("nohup", None, &[]),
    ("setsid", None, &[]),
    ("stdbuf", None, &["-i", "-o", "-e"]),
    ("xvfb-run", None, &["-n", "-s", "-e", "-f", "-p", "-w"]),
    ("exec", None, &["-a"]),
    ("command", None, &[]),
    ("builtin", None, &[]),
    ("npx", None, &["-p", "--package"]),
    ("bunx", None, &[]),
    ("uvx", None, &["--from", "--with", "-p", "--python"]),
    ("uv", Some("run"), &["--with", "-p", "--python", "--extra", "--group", "--project"]),
    ("poetry", Some("run"), &[]),
    ("pipenv", Some("run"), &[]),
    ("pdm", Some("run"), &[]),
    ("hatch", Some("run"), &[]),
    ("bundle", Some("exec"), &[]),
    ("pnpm", Some("exec"), &["-C", "--dir", "--filter"]),
    ("conda", Some("run"), &["-n", "-p", "--name", "--prefix"]),
];

const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash", "agentcg-bash"];
const SHELL_VALUES: &[&str] = &["-o", "+o", "-O", "+O", "--rcfile", "--init-file"];

/// What they run is the first word that is not an option.
const INTERPRETERS: &[WithValues] = &[
    ("python", &["-W", "-X"]),
    ("pypy", &["-W", "-X"]),
    ("node", &["-r", "--require", "--import", "--loader", "--env-file", "-C", "--conditions"]),
    ("nodejs", &["-r", "--require"]),
    ("tsx", &[]),
    ("ts-node", &["-P", "--project"]),
    ("ruby", &["-r", "-I", "-C"]),
    ("perl", &["-I"]),
    ("php", &["-d", "-c"]),
    ("lua", &["-l"]),
    ("Rscript", &[]),
    ("julia", &["-J", "-t", "-p"]),
    ("java", &["-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-opens"]),
];

/// The options of interpreters whose value is the program itself.
const CODE: &[&str] = &["-c", "-e", "-E", "-p", "-r", "--eval", "--print"];

const WITH_SUBCOMMANDS: &[WithValues] = &[
    ("ant", &["-f"]),
    ("apt", &["-o", "-c"]),
    ("apt-get", &["-o", "-c"]),
    ("bazel", &[]),
    ("brew", &[]),
    ("bun", &["--cwd"]),
    ("bundle", &[]),
    ("cabal", &[]),
    ("cargo", &["-C", "-Z", "--config", "--color", "--manifest-path"]),
    ("composer", &["-d"]),
    ("conda", &[]),
    ("deno", &[]),
    ("docker", &["-H", "-c", "-l", "--host", "--context", "--config"]),
    ("dotnet", &[]),
    ("gh", &["-R", "--repo"]),
    ("git", &["-C", "-c", "--git-dir", "--work-tree"]),
    ("go", &["-C"]),
    ("gradle", &["-p", "-b"]),
    ("gradlew", &["-p", "-b"]),
    ("helm", &["-n", "--namespace"]),
    ("hatch", &["-e"]),
    ("just", &["-f", "-d"]),
    ("kubectl", &["-n", "--namespace", "--context", "--kubeconfig"]),
    ("make", &["-C", "-f", "-I", "-j", "-l", "-o", "-W", "--directory", "--file"]),
    ("gmake", &["-C", "-f", "-I", "-j", "-l", "-o", "-W"]),
    ("mix", &[]),
    ("mvn", &["-f", "-pl", "-P", "-s", "-T"]),
    ("mvnw", &["-f", "-pl", "-P", "-s", "-T"]),
    ("ninja", &["-C", "-f", "-j", "-k", "-l", "-t"]),
    ("nox", &["-s", "-f", "-e"]),
    ("npm", &["-w", "--workspace", "--prefix"]),
    ("nx", &[]),
    ("pdm", &["-p"]),
    ("pip", &["--python"]),
    ("pipenv", &[]),
    ("pnpm", &["-C", "--dir", "--filter", "-F"]),
    ("podman", &["-c", "-r"]),
    ("poetry", &["-C", "-P"]),
    ("rails", &[]),
    ("rake", &["-f", "-C"]),
    ("rustup", &[]),
    ("stack", &[]),
    ("swift", &[]),
    ("terraform", &[]),
    ("tox", &["-e", "-c"]),
    ("turbo", &[]),
    ("uv", &["--directory", "--project"]),
    ("yarn", &["--cwd"]),
];

/// Subcommands that take another.
const DEEPER: &[(&str, &[&str])] = &[
    ("bun", &["run"]),
    ("docker", &["compose", "buildx"]),
    ("podman", &["compose"]),
    ("go", &["tool"]),
    ("npm", &["run", "run-script", "exec"]),
    ("nx", &["run"]),
    ("pnpm", &["run"]),
    ("turbo", &["run"]),
    ("uv", &["pip", "tool"]),
    ("yarn", &["run", "workspace"]),
];

/// Words of the shell's language; the command comes after them.
const KEYWORDS: &[&str] =
    &["if", "then", "else", "elif", "fi", "do", "done", "while", "until", "esac", "!", "{", "}"];

/// What follows them is not a command.
const HEADS: &[&str] = &["for", "case", "select", "function"];

const BUILTINS: &[&str] = &[
    ".", ":", "[", "[[", "alias", "cd", "echo", "exit", "export", "false", "hash", "local",
    "mkdir", "popd", "printf", "pushd", "pwd", "read", "return", "set", "shift", "shopt", "sleep",
    "source", "test", "touch", "trap", "true", "type", "ulimit", "umask", "unset", "wait", "which",
];

const FILTERS: &[&str] = &[
    "awk", "cat", "cut", "egrep", "fgrep", "grep", "head", "jq", "less", "more", "rg", "sed",
    "sort", "tail", "tee", "tr", "uniq", "wc", "xargs",
];

/// Different commands of one script that are kept.
const MOST_COMMANDS: usize = 4;
/// Shells in shells.
const DEEPEST: usize = 4;
/// Characters of one name.
const LONGEST_NAME: usize = 64;
/// What there is when nothing is left.
const NOTHING: &str = "(nothing)";

impl CommandKey {
    /// The key of a command line; the program is its first word.
    pub fn normalise<S: AsRef<OsStr>>(argv: &[S]) -> Self {
        let text = |word: &S| word.as_ref().to_string_lossy().into_owned();
        let words: Vec<_> = argv.iter().map(text).collect();
        let mut names = Vec::new();
        describe(&words, 0, &mut names);
        let is = |list: &[&str], name: &String| list.contains(&name.as_str());
        let rest = |name: &&String| !is(BUILTINS, name) && !is(FILTERS, name);
        let mut kept: Vec<&str> = Vec::new();
        for name in names.iter().filter(rest) {
            if !kept.contains(&name.as_str()) && kept.len() < MOST_COMMANDS {
                kept.push(name);
            }
        }
        if kept.is_empty() {
            let light = names.iter().find(|n| !is(BUILTINS, n)).or(names.first());
            kept.push(light.map_or(NOTHING, String::as_str));
        }
        Self(kept.join("; "))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds the names of the commands that these words run.
fn describe(words: &[String], depth: usize, names: &mut Vec<String>) {
    let mut words = words;
    loop {
        let Some((first, rest)) = words.split_first() else { return };
        if is_assignment(first) || KEYWORDS.contains(&first.as_str()) {
            words = rest;
            continue;
        }
        if HEADS.contains(&first.as_str()) {
            return;
        }
        let program = program(first);
        if let Some(inner) = unwrapped(&program, rest) {
            words = inner;
            continue;
        }
        if program == "eval" && depth < DEEPEST {
            return describe_script(&rest.join(" "), depth, names);
        }
        if SHELLS.contains(&program.as_str()) {
            return describe_shell(program, rest, depth, names);
        }
        names.push(name_of(program, rest));
        return;
    }
}

fn describe_script(script: &str, depth: usize, names: &mut Vec<String>) {
    for words in shell::commands(script) {
        describe(&words, depth + 1, names);
    }
}

fn describe_shell(shell: String, words: &[String], depth: usize, names: &mut Vec<String>) {
    let (options, rest) = options(words, SHELL_VALUES);
    let has_script =
        options.iter().any(|o| o.starts_with('-') && !o.starts_with("--") && o.contains('c'));
    match rest.first() {
        Some(script) if has_script && depth < DEEPEST => describe_script(script, depth, names),
        Some(_) if has_script => names.push(shell),
        Some(file) => names.push(format!("{shell} {}", file_name(file))),
        None => names.push(shell),
    }
}

/// What a wrapper runs, when `program` is one.
fn unwrapped<'a>(program: &str, words: &'a [String]) -> Option<&'a [String]> {
    let of_program = WRAPPERS.iter().filter(|w| w.0 == program);
    for (_, subcommand, values) in of_program {
        let (_, mut rest) = options(words, values);
        if let Some(subcommand) = subcommand {
            if rest.first().is_none_or(|w| w != subcommand) {
                continue;
            }
            rest = options(&rest[1..], values).1;
        }
        // The duration of `timeout`, the mask of `taskset`.
        while rest.first().is_some_and(|w| w.starts_with(|c: char| c.is_ascii_digit())) {
            rest = &rest[1..];
        }
        return Some(rest).filter(|r| !r.is_empty());
    }
    None
}

/// The program with the words that say what it does.
fn name_of(program: String, words: &[String]) -> String {
    if let Some((_, values)) = INTERPRETERS.iter().find(|i| i.0 == program) {
        return of_interpreter(program, words, values);
    }
    let Some((_, values)) = WITH_SUBCOMMANDS.iter().find(|s| s.0 == program) else {
        return program;
    };
    let Some((subcommand, rest)) = plain_word(words, values) else { return program };
    let deeper = DEEPER.iter().any(|(p, s)| *p == program && s.contains(&subcommand));
    match plain_word(rest, values).filter(|_| deeper) {
        Some((second, _)) => format!("{program} {subcommand} {second}"),
        None => format!("{program} {subcommand}"),
    }
}

fn of_interpreter(program: String, words: &[String], values: &[&str]) -> String {
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let word = word.as_str();
        if word == "-m" {
            let module = words.next().filter(|m| !m.contains('/'));
            return module.map_or(program.clone(), |m| format!("{program} -m {}", file_name(m)));
        }
        if values.contains(&word) {
            words.next();
        } else if CODE.contains(&word) {
            return format!("{program} -c");
        } else if word == "-" {
            break;
        } else if !word.starts_with('-') {
            return format!("{program} {}", file_name(word));
        }
    }
    program
}

/// The first word that is not an option, when it is plain.
fn plain_word<'a>(words: &'a [String], values: &[&str]) -> Option<(&'a str, &'a [String])> {
    let (_, rest) = options(words, values);
    let (first, rest) = rest.split_first()?;
    is_plain(first).then_some((first.as_str(), rest))
}

/// Options at the start, without the values of those that take the next word, and the rest.
fn options<'a>(words: &'a [String], values: &[&str]) -> (Vec<&'a str>, &'a [String]) {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(word) = words.get(at).filter(|w| w.starts_with(['-', '+'])) {
        at += 1;
        if word == "--" {
            break;
        }
        found.push(word.as_str());
        at += usize::from(values.contains(&word.as_str()));
    }
    (found, words.get(at..).unwrap_or_default())
}

fn is_assignment(word: &str) -> bool {
    let Some((name, _)) = word.split_once('=') else { return false };
    let name_like = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(name_like) && name.starts_with(|c: char| !c.is_ascii_digit())
}

/// Like the name of a subcommand, and not a path, a number or a hash.
fn is_plain(word: &str) -> bool {
    let bytes = word.as_bytes();
    let name_like = |b: &u8| b.is_ascii_alphanumeric() || b"-_:".contains(b);
    let digits = bytes.iter().any(u8::is_ascii_digit);
    let number = bytes.iter().all(u8::is_ascii_digit);
    let hash = digits && bytes.len() >= 7 && bytes.iter().all(u8::is_ascii_hexdigit);
    !word.is_empty()
        && word.len() <= LONGEST_NAME
        && bytes.iter().all(name_like)
        && !number
        && !hash
}

/// The file name of a program, without the version at its end.
fn program(word: &str) -> String {
    let name = last_component(word);
    let bare = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
    shown(if bare.is_empty() { name } else { bare })
}

/// The file name of a script; its numbers are those of a run.
fn file_name(word: &str) -> String {
    let mut name = String::new();
    for c in last_component(word).chars() {
        match c.is_ascii_digit() {
            true if name.ends_with('#') => {}
            true => name.push('#'),
            false => name.push(c),
        }
    }
    shown(&name)
}

fn last_component(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Short, on one line, and no more than one command.
fn shown(name: &str) -> String {
    let plain = |c: char| if c.is_control() || c.is_whitespace() || c == ';' { '?' } else { c };
    let name: String = name.chars().take(LONGEST_NAME).map(plain).collect();
    if name.is_empty() { "?".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStringExt;

    fn key(line: &str) -> String {
        // As a shell would split it: no quoting inside these lines but for the last word.
        let mut words: Vec<String> = Vec::new();
        let (line, quoted) = line.split_once(" '").unwrap_or((line, ""));
        words.extend(line.split_whitespace().map(str::to_owned));
        words.extend(quoted.strip_suffix('\'').map(str::to_owned));
        CommandKey::normalise(&words).0
    }

    #[test]
    fn the_same_work_has_the_same_key() {
        for (line, expected) in [
            ("python3.11 -m pytest -x tests/a.py", "python -m pytest"),
            ("/usr/bin/python3 -u scripts/train.py --epochs 3", "python train.py"),
            ("python -W ignore run_2024_01.py", "python run_#_#.py"),
            ("python3 -c 'import os; print(1)'", "python -c"),
            ("python", "python"),
            ("node --max-old-space-size=100 -r ts-node/register build/a.js", "node a.js"),
            ("java -Xmx1g -cp a.jar:b.jar -jar /opt/app.jar serve", "java app.jar"),
            ("RUST_LOG=debug A=b cargo test -p core --lib", "cargo test"),
            ("cargo +nightly --color never build", "cargo build"),
            ("git -C /src -c a=b log -5 4f2a9c1", "git log"),
            ("git", "git"),
            ("npm run build:prod -- --x", "npm run build:prod"),
            ("npm test", "npm test"),
            ("docker compose -f a.yml up -d", "docker compose"),
            ("make -j 4 -C sub check", "make check"),
            ("make -j8", "make"),
            ("make out/a.o", "make"),
            ("go test ./...", "go test"),
            ("pip3 install numpy", "pip install"),
            ("gcc-12 -O2 a.c -o a", "gcc"),
            ("./a.out 10", "a.out"),
            ("7z x a.7z", "7z"),
            ("pytest -k foo", "pytest"),
            ("timeout -s KILL 60 nice -n 10 pytest -x", "pytest"),
            ("env -u A B=1 sudo -u nobody time ./run", "run"),
            ("uv run --with x pytest -q", "pytest"),
            ("uv pip install x", "uv pip install"),
            ("npx -p typescript tsc", "tsc"),
            ("taskset 0x3 make", "make"),
            ("env", "env"),
            ("bash build.sh 3", "bash build.sh"),
            ("bash", "bash"),
            ("bash -lc 'cd /src && make -j8 check 2>&1 | tail -20'", "make check"),
            ("/bin/bash -o pipefail -ec 'A=1 pytest tests | tee log'", "pytest"),
            ("sh -c 'npm run build && npm test; npm test'", "npm run build; npm test"),
            ("bash -c 'for f in a b; do gcc -c $f; done'", "gcc"),
            ("bash -c 'if ! make; then exit 1; fi'", "make"),
            ("bash -c 'cat x | sort'", "cat"),
            ("bash -c 'cd /x; pwd'", "cd"),
            ("bash -c 'ls -la | head'", "ls"),
            ("bash -c ''", NOTHING),
            ("A=1", NOTHING),
            ("", NOTHING),
        ] {
            assert_eq!(key(line), expected, "{line}");
        }
    }

    #[test]
    fn shells_in_shells_and_eval() {
        let nested = ["bash", "-c", "source /tmp/s.sh && eval 'sudo bash -c \"make x\"' && pwd -P"];
        assert_eq!(CommandKey::normalise(&nested).as_str(), "make x");
        let mut script = "make".to_owned();
        for _ in 0..20 {
            script = format!("eval {script}");
        }
        assert_eq!(CommandKey::normalise(&["sh", "-c", &script]).as_str(), "eval");
        let many = "a1x; b; c; d; e; f; a1x";
        assert_eq!(CommandKey::normalise(&["sh", "-c", many]).as_str(), "a1x; b; c; d");
    }

    /// Words that the rules know, and others.
    fn word() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            "(bash|sh|-c|-lc|-m|--|-o|eval|sudo|uv|run|cargo|npm|python3|make|timeout|5s|A=b|/|-|\\+)"
                .prop_map(String::into_bytes),
            "[a-z '\"`$()<>|&;#\\\\\n]{0,24}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_have_a_short_key_on_one_line(argv in prop::collection::vec(word(), 0..8)) {
            let argv: Vec<_> = argv.into_iter().map(std::ffi::OsString::from_vec).collect();
            let key = CommandKey::normalise(&argv);
            prop_assert!(!key.as_str().is_empty() && !key.as_str().chars().any(char::is_control));
            prop_assert!(key.as_str().chars().count() <= MOST_COMMANDS * (3 * LONGEST_NAME + 8));
            prop_assert!(key.as_str().split("; ").count() <= MOST_COMMANDS);
        }

        #[test]
        fn directories_and_values_do_not_matter(
            directory in "(/[a-z]{1,8}){0,3}", number in 0u32..1000, version in "(3|3\\.[0-9]{1,2})?",
        ) {
            let python = format!("{directory}/python{version}");
            let script = format!("{directory}/train.py");
            let line = [python.as_str(), "-u", &script, "--seed", &number.to_string()];
            prop_assert_eq!(CommandKey::normalise(&line).0, "python train.py");
            let shell = format!("cd '{directory}/x' && SEED={number} {}", line.join(" "));
            prop_assert_eq!(CommandKey::normalise(&["bash", "-c", &shell]).0, "python train.py");
        }
    }
}
