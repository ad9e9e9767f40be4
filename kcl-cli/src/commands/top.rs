//! `top`: shards and workers live, in a terminal.

use std::io::IsTerminal as _;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use kcl_core::clock::Clock as _;
use kcl_operations::{FleetView, ShardState, ShardView, count_text};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style as Paint};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use crate::arguments::{CommonOptions, LookOptions};
use crate::connection::Connection;
use crate::failure::{Exit, Failure};
use crate::look::Looker;
use crate::output::{Style, printable, wants_colours};
use crate::views::{heading, millis_text, rate_text, secs_text, short_checkpoint, state_style, text_or_dash};

/// How often the table is read, unless --watch says otherwise.
const EVERY: Duration = Duration::from_secs(2);

const KEYS: &str = "q quit   ↑↓ shard   enter why   s sort   w workers";

/// The content of the screen.
pub(crate) struct Screen {
    fleet: FleetView,
    order: Order,
    selected: TableState,
    shows_workers: bool,
    shows_why: bool,
    problem: Option<String>,
    colours: bool,
}

/// The order of the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Lag,
    State,
    Key,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Lag => Self::State,
            Self::State => Self::Key,
            Self::Key => Self::Lag,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::State => "state",
            Self::Key => "key",
        }
    }
}

/// `kcl top`.
pub(crate) async fn top(
    connection: &Connection,
    common: &CommonOptions,
    options: &LookOptions,
) -> Result<Exit, Failure> {
    if !std::io::stdout().is_terminal() {
        let message = "top needs a terminal: use `kcl status` with --watch, or with -o json for a program";
        return Err(Failure::usage(message));
    }
    let looker = Looker::open(connection, common.table.as_deref(), options).await?;
    let mut looker = looker.quiet();
    let mut screen = Screen::new(looker.look().await?, wants_colours());
    let every = common.watch.unwrap_or(EVERY);
    let mut terminal = ratatui::try_init()?;
    let ended = run(connection, &mut looker, &mut screen, every, &mut terminal).await;
    ratatui::try_restore()?;
    ended.map(|()| Exit::Fine)
}

async fn run(
    connection: &Connection,
    looker: &mut Looker<'_>,
    screen: &mut Screen,
    every: Duration,
    terminal: &mut ratatui::DefaultTerminal,
) -> Result<(), Failure> {
    let mut keys = EventStream::new();
    loop {
        // Keys work while an answer is on its way.
        let next = connection.clock.now() + every;
        let mut look = Box::pin(async {
            connection.clock.sleep_until(next).await;
            looker.look().await
        });
        let looked = loop {
            terminal.draw(|frame| screen.draw(frame))?;
            tokio::select! {
                biased;
                key = keys.next() => match key {
                    Some(Ok(Event::Key(key))) if screen.is_over(key) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => return Ok(()),
                },
                looked = &mut look => break looked,
            }
        };
        drop(look);
        match looked {
            Ok(fleet) => {
                screen.update(fleet);
                let unmeasured = looker.unmeasured();
                screen.problem = unmeasured.iter().next().map(|(key, problem)| {
                    let lags = count_text(unmeasured.len(), "lag");
                    format!("{lags} could not be measured, such as that of {key}: {problem}")
                });
            }
            Err(failure) => screen.problem = Some(failure.to_string()),
        }
    }
}

impl Screen {
    pub(crate) fn new(fleet: FleetView, colours: bool) -> Self {
        let mut screen = Self {
            fleet,
            order: Order::Lag,
            selected: TableState::default().with_selected(0),
            shows_workers: false,
            shows_why: false,
            problem: None,
            colours,
        };
        screen.sort();
        screen
    }

    fn update(&mut self, fleet: FleetView) {
        let selected = self.selected_shard().map(|shard| shard.lease.clone());
        self.fleet = fleet;
        self.problem = None;
        self.sort();
        let again =
            selected.and_then(|lease| self.fleet.shards.iter().position(|shard| shard.lease == lease));
        self.selected.select(Some(again.unwrap_or(0)));
    }

    fn sort(&mut self) {
        let order = self.order;
        self.fleet.shards.sort_by(|one, other| {
            let by_key = one.lease.cmp(&other.lease);
            let is_ended = |shard: &ShardView| shard.state == ShardState::Ended;
            let by_order = match order {
                Order::Lag => other.lag_ms.cmp(&one.lag_ms),
                Order::State => gravity(one.state).cmp(&gravity(other.state)),
                Order::Key => std::cmp::Ordering::Equal,
            };
            is_ended(one).cmp(&is_ended(other)).then(by_order).then(by_key)
        });
    }

    fn selected_shard(&self) -> Option<&ShardView> {
        self.selected
            .selected()
            .and_then(|index| self.fleet.shards.get(index))
    }

    /// Does what the key says. Returns `true` if it ends the view.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "there are many keys, and few mean something here"
    )]
    fn is_over(&mut self, key: KeyEvent) -> bool {
        if key.kind == KeyEventKind::Release {
            return false;
        }
        let last = self.fleet.shards.len().saturating_sub(1);
        let at = self.selected.selected().unwrap_or(0);
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('q') => return true,
            KeyCode::Esc if !self.shows_why => return true,
            KeyCode::Esc => self.shows_why = false,
            KeyCode::Enter => self.shows_why = !self.shows_why,
            KeyCode::Char('w') => self.shows_workers = !self.shows_workers,
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.sort();
            }
            KeyCode::Up | KeyCode::Char('k') => self.selected.select(Some(at.saturating_sub(1))),
            KeyCode::Down | KeyCode::Char('j') => self.selected.select(Some((at + 1).min(last))),
            KeyCode::PageUp => self.selected.select(Some(at.saturating_sub(20))),
            KeyCode::PageDown => self.selected.select(Some((at + 20).min(last))),
            KeyCode::Home => self.selected.select(Some(0)),
            KeyCode::End => self.selected.select(Some(last)),
            _ => {}
        }
        false
    }

    fn paint(&self, style: Style) -> Paint {
        let paint = Paint::default();
        match style {
            _ if !self.colours => paint,
            Style::Plain => paint,
            Style::Bold => paint.add_modifier(Modifier::BOLD),
            Style::Dim => paint.add_modifier(Modifier::DIM),
            Style::Good => paint.fg(Color::Green),
            Style::Bad => paint.fg(Color::Red),
            Style::Warn => paint.fg(Color::Yellow),
        }
    }

    pub(crate) fn draw(&mut self, frame: &mut Frame<'_>) {
        let heading = heading(&self.fleet, false);
        let heading: Vec<Line<'_>> = heading.lines().map(|line| Line::from(line.to_owned())).collect();
        let lines = u16::try_from(heading.len()).unwrap_or(1);
        let below = u16::from(self.shows_why) * 12;
        let [above, middle, lower, foot] = Layout::vertical([
            Constraint::Length(lines),
            Constraint::Min(3),
            Constraint::Length(below),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(Paragraph::new(heading), above);
        match self.shows_workers {
            true => frame.render_widget(self.workers(), middle),
            false => {
                let table = self.shards();
                let mut selected = self.selected;
                frame.render_stateful_widget(table, middle, &mut selected);
                self.selected = selected;
            }
        }
        if self.shows_why {
            frame.render_widget(self.why(), lower);
        }
        let problem = self
            .problem
            .as_ref()
            .map(|problem| Span::styled(printable(problem), self.paint(Style::Bad)));
        let keys = Span::styled(
            format!("{KEYS}   sorted by {}", self.order.word()),
            self.paint(Style::Dim),
        );
        frame.render_widget(Line::from(problem.unwrap_or(keys)), foot);
    }

    fn shards(&self) -> Table<'static> {
        let titles = [
            "SHARD",
            "STATE",
            "OWNER",
            "CHECKPOINT",
            "LAG",
            "RATE",
            "CATCH-UP",
            "ATTEMPTS",
            "LAST-PROGRESS",
        ];
        let rows = self.fleet.shards.iter().map(|shard| {
            let state = Cell::new(shard.state.word()).style(self.paint(state_style(shard.state)));
            Row::new([
                Cell::new(printable(&shard.lease)),
                state,
                Cell::new(printable(&text_or_dash(shard.owner.as_ref()))),
                Cell::new(short_checkpoint(shard)),
                Cell::new(millis_text(shard.lag_ms)),
                Cell::new(rate_text(shard.rate_kib_per_s)),
                Cell::new(secs_text(shard.catch_up_s)),
                Cell::new(shard.attempts.to_string()),
                Cell::new(millis_text(shard.last_progress_ms)),
            ])
        });
        let widths = [
            Constraint::Min(20),
            Constraint::Length(18),
            Constraint::Min(12),
            Constraint::Length(16),
            Constraint::Length(8),
            Constraint::Length(12),
            Constraint::Length(9),
            Constraint::Length(8),
            Constraint::Length(13),
        ];
        Table::new(rows, widths)
            .header(Row::new(titles).style(self.paint(Style::Bold)))
            .row_highlight_style(Paint::default().add_modifier(Modifier::REVERSED))
            .block(Block::new())
    }

    fn workers(&self) -> Table<'static> {
        let columns = crate::views::worker_columns();
        let titles: Vec<&'static str> = columns.iter().map(|column| column.title).collect();
        let widths = columns
            .iter()
            .map(|column| Constraint::Min(u16::try_from(column.title.len()).unwrap_or(8)));
        let widths: Vec<Constraint> = widths.collect();
        let rows: Vec<Row<'static>> = self
            .fleet
            .workers
            .iter()
            .map(|worker| {
                let cells = columns.iter().map(|column| {
                    Cell::new(printable(&(column.cell)(worker))).style(self.paint((column.style)(worker)))
                });
                Row::new(cells.collect::<Vec<_>>())
            })
            .collect();
        Table::new(rows, widths).header(Row::new(titles).style(self.paint(Style::Bold)))
    }

    fn why(&self) -> Paragraph<'static> {
        let sentences = self
            .selected_shard()
            .and_then(|shard| self.fleet.why(&shard.lease))
            .unwrap_or_default();
        let lines: Vec<Line<'static>> = sentences.iter().map(|line| Line::from(printable(line))).collect();
        Paragraph::new(lines)
            .wrap(ratatui::widgets::Wrap { trim: true })
            .block(Block::bordered().title("why"))
    }
}

/// The gravest first.
fn gravity(state: ShardState) -> u8 {
    match state {
        ShardState::Unowned => 0,
        ShardState::Stalled => 1,
        ShardState::Held => 2,
        ShardState::Lagging => 3,
        ShardState::Paused => 4,
        ShardState::Unknown => 5,
        ShardState::Ok => 6,
        ShardState::WaitingForParent | ShardState::Ended | _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(screen: &mut Screen) -> String {
        let mut terminal = Terminal::new(TestBackend::new(140, 24)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    fn press(screen: &mut Screen, code: KeyCode) -> bool {
        screen.is_over(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn shards_workers_and_reasons_are_drawn() {
        let mut screen = Screen::new(samples::fleet(), false);
        let shards = drawn(&mut screen);
        assert!(
            shards.contains("shardId-000000000000") && shards.contains("UNKNOWN"),
            "{shards}"
        );
        press(&mut screen, KeyCode::Enter);
        let why = drawn(&mut screen);
        assert!(why.contains("worker-1 has it, the leader."), "{why}");
        press(&mut screen, KeyCode::Char('w'));
        let workers = drawn(&mut screen);
        assert!(
            workers.contains("worker-1") && workers.contains("leader"),
            "{workers}"
        );
    }

    #[test]
    fn selection_stays_with_its_shard() {
        let mut screen = Screen::new(samples::fleet(), false);
        press(&mut screen, KeyCode::Char('s'));
        press(&mut screen, KeyCode::End);
        let before = screen.selected_shard().unwrap().lease.clone();
        screen.update(samples::fleet());
        assert_eq!(screen.selected_shard().unwrap().lease, before);
        assert!(!press(&mut screen, KeyCode::Down));
        assert!(press(&mut screen, KeyCode::Char('q')));
    }
}
