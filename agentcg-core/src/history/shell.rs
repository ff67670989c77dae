//! The simple commands of a shell script, as far as that tells what kind of work it is.
//!
//! Not a shell: nothing is expanded, and what comes after the line of a here-document is not looked
//! at. It reads any text and finds something, or nothing.

use std::iter::Peekable;
use std::str::Chars;

/// Longer scripts are not read to the end.
const LONGEST: usize = 8192;

/// Stands for what a substitution would give.
const SUBSTITUTED: &str = "$()";

/// The words of each simple command, in order, without redirections and comments.
pub(super) fn commands(script: &str) -> Vec<Vec<String>> {
    let mut reader = Reader::default();
    let mut end = script.len().min(LONGEST);
    while !script.is_char_boundary(end) {
        end -= 1;
    }
    let mut chars = script[..end].chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\n' if reader.here_document => break,
            '#' if reader.word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '&' if chars.peek() == Some(&'>') => reader.end_word(),
            '<' | '>' => reader.redirection(c, &mut chars),
            '\n' | ';' | '&' | '|' | '(' | ')' => reader.end_command(),
            c if c.is_whitespace() => reader.end_word(),
            c => reader.part_of_word(c, &mut chars),
        }
    }
    reader.end_command();
    reader.commands
}

#[derive(Default)]
struct Reader {
    commands: Vec<Vec<String>>,
    words: Vec<String>,
    /// `None` between words; a quoted nothing is a word.
    word: Option<String>,
    /// The next word is where a redirection goes.
    target: bool,
    here_document: bool,
}

impl Reader {
    fn part_of_word(&mut self, first: char, chars: &mut Peekable<Chars<'_>>) {
        // A line that goes on is no part of a word.
        if first == '\\' && chars.next_if_eq(&'\n').is_some() {
            return;
        }
        let word = self.word.get_or_insert_default();
        match first {
            '\\' => word.extend(chars.next()),
            '\'' => word.extend(chars.by_ref().take_while(|c| *c != '\'')),
            '"' => {
                while let Some(c) = chars.next().filter(|c| *c != '"') {
                    word.extend(if c == '\\' { chars.next() } else { Some(c) });
                }
            }
            '`' => {
                word.push_str(SUBSTITUTED);
                chars.by_ref().take_while(|c| *c != '`').for_each(drop);
            }
            '$' if chars.peek() == Some(&'(') => {
                word.push_str(SUBSTITUTED);
                let mut depth = 0;
                for c in chars.by_ref() {
                    depth += i32::from(c == '(') - i32::from(c == ')');
                    if depth == 0 {
                        break;
                    }
                }
            }
            c => word.push(c),
        }
    }

    /// `>`, `2>&1`, `>|`, `<<EOF`, `<<<`.
    fn redirection(&mut self, first: char, chars: &mut Peekable<Chars<'_>>) {
        // A number before it is that of the file descriptor.
        self.word = self.word.take().filter(|w| !w.bytes().all(|b| b.is_ascii_digit()));
        self.end_word();
        let mut operator = String::from(first);
        while let Some(c) = chars.next_if(|c| "<>&|-".contains(*c)) {
            operator.push(c);
        }
        self.here_document |= ["<<", "<<-"].contains(&operator.as_str());
        self.target = true;
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else { return };
        if std::mem::take(&mut self.target) {
            return;
        }
        self.words.push(word);
    }

    fn end_command(&mut self) {
        self.end_word();
        self.target = false;
        let words = std::mem::take(&mut self.words);
        if !words.is_empty() {
            self.commands.push(words);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simple_commands_without_redirections() {
        for (script, words) in [
            ("make -j4 test", "make -j4 test"),
            ("cd /x&&make;make install", "cd /x|make|make install"),
            ("a | b || c & d", "a|b|c|d"),
            ("(a; b)", "a|b"),
            ("pytest 2>&1 >/dev/null | tail -3", "pytest|tail -3"),
            ("make &> log; make >> log 2> x", "make|make"),
            ("pwd -P >| /tmp/cwd", "pwd -P"),
            ("echo 'a;b' \"c|d\\\"\" e\\ f", "echo a;b c|d\" e f"),
            ("make -j$(nproc --all) x", "make -j$() x"),
            ("a `b; c` $(d $(e)) f", "a $() $() f"),
            ("a # b; c\nd", "a|d"),
            ("a#b c", "a#b c"),
            ("python - <<'EOF'\nimport os; os\nEOF", "python -"),
            ("python - <<< 'x'\nb", "python -|b"),
            ("a \\\n b", "a b"),
            ("'unfinished ; x", "unfinished ; x"),
            ("$(unfinished ; x", "$()"),
            (" ;; \n &", ""),
        ] {
            let found: Vec<_> = commands(script).iter().map(|w| w.join(" ")).collect();
            assert_eq!(found.join("|"), words, "{script}");
        }
    }
}
