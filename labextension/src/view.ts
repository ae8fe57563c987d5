/**
 * The view of a run: plain DOM, for the cell's output and for JupyterLab's tabs alike.
 *
 * `update` may be called as often as one likes: it is drawn a few times a second at most, in a frame
 * of the browser, and not at all while nobody can see it.
 */

import { h, say } from './dom';
import { Focus, forget, Leaving, Opened, remember, takeOver } from './left';
import { LogPanel } from './logs';
import { Paced } from './paced';
import { draw } from './plot';
import { RunHost, RunView, Row } from './run';
import { FIGURED, joined, NUMBERED, Strip } from './strip';

/**
 * A live run is drawn so often at most, and its curves so often, in milliseconds: a little sooner than
 * all else where there are many workers, so that both are in one frame.
 */
const DRAWN_EVERY = 400;
const PLOTS_EVERY = 900;

/** So often where there are many workers: laying all of their signs out takes its time. */
const MANY_DRAWN_EVERY = 1000;

export interface View {
  update(view: RunView): void;
  showLogs(): void;
  dispose(): void;
}

const HEADS: Record<string, string> = {
  now: 'so far',
  training: 'training',
  validation: 'validation'
};

/** Tell whether a view of a run is on the screen. */
export function isInView(run: string): boolean {
  return Array.from(document.querySelectorAll<HTMLElement>('.nbt')).some(root => {
    const box = root.getBoundingClientRect();
    const on = box.bottom > 0 && box.top < window.innerHeight && box.width > 0;
    return root.dataset.run === run && on && !document.hidden;
  });
}

/** `there`: whether the host can do anything, where that is still to be found out. */
export function createRunView(
  element: HTMLElement,
  host: RunHost = {},
  there?: Promise<boolean>
): View {
  const drawing = new Drawing(host, there);
  element.replaceChildren(drawing.root);
  let latest: RunView | null = null;
  let frame = 0;
  let seen = true;
  const pace = new Paced(DRAWN_EVERY);

  const paint = (): void => {
    frame = 0;
    if (latest && seen) {
      drawing.draw(latest);
    }
  };
  const ask = (): void => {
    if (!frame && seen) {
      frame = requestAnimationFrame(paint);
    }
  };
  const watcher =
    typeof IntersectionObserver === 'undefined'
      ? null
      : new IntersectionObserver(entries => {
          seen = entries[entries.length - 1].isIntersecting;
          drawing.seen(seen);
          ask();
        });
  watcher?.observe(drawing.root);

  return {
    update: view => {
      const first = latest === null;
      latest = view;
      if (first) {
        // At once, so that the output has its size from the beginning.
        drawing.draw(view);
        void drawing.takeOver();
      } else {
        pace.every = view.workers.length > NUMBERED ? MANY_DRAWN_EVERY : DRAWN_EVERY;
        pace.ask(ask, !view.live);
      }
    },
    showLogs: () => drawing.toggleLogs(true),
    dispose: () => {
      watcher?.disconnect();
      pace.hold();
      cancelAnimationFrame(frame);
      drawing.dispose();
      element.replaceChildren();
    }
  };
}

/** The elements of one view; each part is drawn anew only where its data changed. */
class Drawing implements Leaving {
  readonly root = h('div', { class: 'nbt', role: 'group' });
  private readonly name = h('strong', { class: 'nbt-runname' });
  private readonly doing = h('strong');
  private readonly rest = h('span');
  private readonly facts = h('div', { class: 'nbt-facts' });
  private readonly strip = new Strip();
  private readonly crew = h('span', { class: 'nbt-crew' });
  private readonly workers = h('div', { class: 'nbt-workers' });
  private readonly bars = h('div', { class: 'nbt-bars' });
  private readonly numbers = h('div', { class: 'nbt-numbers' });
  private readonly plots = h('div', { class: 'nbt-plots' });
  private readonly pace = new Paced(PLOTS_EVERY);
  private table: HTMLElement = h('span');
  private readonly notes = h('div', { class: 'nbt-notes' });
  private readonly next = h('div', { class: 'nbt-next' });
  private readonly announced = h('div', { class: 'nbt-unseen', role: 'status' });
  private readonly reply = h('div', { class: 'nbt-reply', role: 'alert' });
  private readonly buttons: Buttons;
  private readonly logs: LogPanel | null;
  private readonly last = new Map<string, string>();
  private readonly focus = new Focus(this.root);
  private view: RunView | null = null;

  constructor(
    host: RunHost,
    private readonly there?: Promise<boolean>
  ) {
    this.logs = host.log ? new LogPanel(host.log.bind(host)) : null;
    this.buttons = new Buttons(host, {
      logs: this.logs ? () => this.toggleLogs() : undefined,
      say: text => say(this.reply, text)
    });
    if (there) {
      this.buttons.wait();
      void there.then(can => this.buttons.known(can));
    }
    const title = h('div', { class: 'nbt-title' }, this.name, ' ', this.doing, this.rest);
    const head = h('div', { class: 'nbt-head' }, title, this.buttons.element);
    this.workers.append(this.strip.element, this.crew);
    this.numbers.append(this.table, this.plots);
    this.root.append(head, this.facts, this.reply, this.workers, this.bars, this.numbers);
    this.root.append(this.notes, this.next, ...(this.logs ? [this.logs.element] : []));
    this.root.append(this.announced);
  }

  draw(view: RunView): void {
    this.view = view;
    this.part('title', [view.name, view.doing, view.rest, view.tone], () => this.drawTitle(view));
    this.part('facts', view.facts, () => say(this.facts, view.facts.join(' · ')));
    const crew = [view.workers, view.crew, view.speed, view.memory];
    this.part('workers', crew, () => this.drawWorkers(view));
    this.part('bars', view.bars, () => this.drawBars(view));
    this.part('numbers', [view.rows, view.caption], () => this.drawNumbers(view));
    this.part('plots', view.plots, () =>
      this.pace.ask(
        () => this.plots.replaceChildren(...view.plots.map(draw)),
        !view.live || this.plots.childElementCount !== view.plots.length
      )
    );
    this.part('notes', [view.notes, view.error], () => this.drawNotes(view));
    this.part('next', view.next, () => this.drawNext(view));
    this.buttons.update(view);
    this.logs?.update(view.crowd, view.live);
    // Only what a person would want to be told of: counting and steps are not.
    say(this.announced, `${view.name}: ${view.status}`);
  }

  toggleLogs(open?: boolean): void {
    if (this.logs && this.view) {
      this.buttons.pressed(this.logs.toggle(open, this.view.name));
    }
  }

  /** Open what is open in the view in whose place this one is. */
  async takeOver(): Promise<void> {
    const opened = takeOver(this.run);
    remember(this);
    if (!opened || (await this.there) === false) {
      return;
    }
    if (opened.logs && this.logs) {
      this.logs.choose(opened.logs);
      this.toggleLogs(true);
    }
    this.focus.restore(opened.focus);
  }

  get run(): string {
    return this.view?.id ?? '';
  }

  get opened(): Opened {
    return { logs: this.logs?.chosen ?? null, focus: this.focus.held };
  }

  seen(seen: boolean): void {
    this.logs?.seen(seen);
    if (seen) {
      this.pace.goOn();
    } else {
      this.pace.hold();
    }
  }

  dispose(): void {
    forget(this);
    this.pace.hold();
    this.logs?.dispose();
    this.buttons.dispose();
  }

  private part(name: string, data: unknown, redraw: () => void): void {
    const now = JSON.stringify(data);
    if (this.last.get(name) !== now) {
      this.last.set(name, now);
      redraw();
    }
  }

  private drawTitle(view: RunView): void {
    this.root.setAttribute('aria-label', `Training run ${view.name}`);
    this.root.dataset.run = view.id;
    say(this.name, view.name);
    say(this.doing, view.doing);
    this.doing.className = `nbt-tone-${view.tone}`;
    say(this.rest, view.rest.map(part => ` · ${part}`).join(''));
  }

  private drawWorkers(view: RunView): void {
    this.strip.draw(view);
    if (view.live && view.crowd <= FIGURED) {
      this.workers.classList.add('nbt-figured');
    }
    say(this.crew, joined(view.crew, view.speed, view.memory));
  }

  private drawBars(view: RunView): void {
    while (this.bars.childElementCount < view.bars.length * 3) {
      const fill = h('span', { class: 'nbt-fill' });
      const track = h('span', { class: 'nbt-track', role: 'progressbar' }, fill);
      track.setAttribute('aria-valuemin', '0');
      track.setAttribute('aria-valuemax', '100');
      this.bars.append(h('span'), track, h('span', { class: 'nbt-said' }));
    }
    view.bars.forEach((bar, index) => {
      const [name, track, said] = Array.from(this.bars.children).slice(index * 3, index * 3 + 3);
      say(name, bar.name);
      say(said, bar.said);
      (track.firstElementChild as HTMLElement).style.transform = `scaleX(${bar.part})`;
      track.setAttribute('aria-label', bar.name);
      track.setAttribute('aria-valuenow', (bar.part * 100).toFixed(0));
      track.setAttribute('aria-valuetext', bar.said);
    });
  }

  private drawNumbers(view: RunView): void {
    // Room is kept from the beginning of a live run on: nothing jumps when the first values come.
    if (view.live) {
      this.numbers.classList.add('nbt-live'); // and it stays so: the end moves nothing either
    }
    this.numbers.classList.toggle('nbt-empty', !view.rows.length && !view.live);
    const made = table(view);
    // The same cells get other numbers: laying a table out anew costs more than all the rest.
    if (!refilled(this.table, made)) {
      this.table.replaceWith(made);
      this.table = made;
    }
  }

  private drawNotes(view: RunView): void {
    const notes = view.notes.map(note =>
      h('div', { class: `nbt-note nbt-edge-${note.tone}` }, ...folded(note.text, note.more))
    );
    if (view.error) {
      const lines = view.error.traceback.map(([line, marked]) =>
        marked ? h('mark', {}, `→${line.slice(1)}\n`) : `${line}\n`
      );
      const code = lines.length ? [h('pre', { tabindex: 0 }, ...lines)] : [];
      notes.push(
        h(
          'div',
          { class: 'nbt-note nbt-edge-bad' },
          h('strong', {}, view.error.headline),
          ...code,
          h('div', { class: 'nbt-advice' }, view.error.advice.join('\n'))
        )
      );
    }
    this.notes.replaceChildren(...notes);
  }

  private drawNext(view: RunView): void {
    const steps = view.next.map(([code, does]) =>
      h('span', { class: 'nbt-step' }, h('code', {}, code), ` ${does}`)
    );
    this.next.replaceChildren(...steps);
  }
}

function folded(text: string, more: string): (Node | string)[] {
  return more ? [h('details', {}, h('summary', {}, text), h('pre', {}, more))] : [text];
}

/** Give a table the texts of another one, if it has the same cells. */
function refilled(table: HTMLElement, other: HTMLElement): boolean {
  const [cells, others] = [table, other].map(one => one.querySelectorAll('caption, th, td'));
  const rows = [table, other].map(one => one.querySelectorAll('tr').length);
  if (cells.length !== others.length || rows[0] !== rows[1]) {
    return false;
  }
  cells.forEach((cell, index) => say(cell, others[index].textContent));
  return cells.length > 0;
}

function table(view: RunView): HTMLElement {
  if (!view.rows.length) {
    return h('span');
  }
  const heads = view.columns.map(name => h('th', { scope: 'col' }, HEADS[name]));
  const row = (values: Row): HTMLElement =>
    h(
      'tr',
      {},
      h('th', { scope: 'row' }, values.name),
      ...view.columns.map(name => h('td', {}, values[name]))
    );
  return h(
    'table',
    {},
    h('caption', {}, view.caption),
    h('thead', {}, h('tr', {}, h('td'), ...heads)),
    h('tbody', {}, ...view.rows.map(row))
  );
}

interface Doing {
  logs?: () => void;
  say(text: string): void;
}

/** Stop, Logs, TensorBoard, Copy, Delete; Delete asks once more in its own place. */
class Buttons {
  readonly element = h('div', { class: 'nbt-buttons', role: 'toolbar', 'aria-label': 'Run' });
  private readonly stop: HTMLButtonElement | null;
  private readonly logs: HTMLButtonElement | null;
  private readonly remove: HTMLButtonElement | null;
  private readonly copy: HTMLButtonElement;
  private sure = 0;
  private attach = '';

  constructor(
    host: RunHost,
    private readonly doing: Doing
  ) {
    const { stop, remove, tensorboard } = host;
    this.stop = stop ? this.add('Stop', 'Stop at the next step; what there is is saved') : null;
    this.logs = doing.logs ? this.add('Logs', 'What the workers print') : null;
    if (tensorboard) {
      const laid = async (): Promise<string> =>
        `${(await tensorboard.call(host)).command} shows the logs`;
      const button = this.add('TensorBoard', 'Lay a folder with what TensorBoard callbacks wrote');
      button.addEventListener('click', () => void this.asked(button, laid, true));
    }
    this.copy = this.add('Copy attach', 'Copy the command that takes the run into a notebook');
    this.remove = remove ? this.add('Delete', 'Remove the run and its files') : null;
    this.logs?.setAttribute('aria-expanded', 'false');
    this.logs?.addEventListener('click', () => doing.logs?.());
    this.copy.addEventListener('click', () => void this.copied());
    this.stop?.addEventListener('click', () => void this.asked(this.stop!, () => stop!.call(host)));
    this.remove?.addEventListener('click', () => this.removing(() => remove!.call(host)));
  }

  update(view: RunView): void {
    this.attach = view.attach;
    this.copy.hidden = !view.attach;
    if (this.stop) {
      // Hidden and not removed: the other buttons stay where they are.
      this.stop.disabled = !view.live || view.status === 'stopping';
    }
  }

  pressed(open: boolean): void {
    this.logs?.setAttribute('aria-expanded', String(open));
  }

  /** Keep the room of what the host does: nothing jumps when it is known that it can. */
  wait(): void {
    this.ofHost().forEach(button => button.classList.add('nbt-waits'));
  }

  /** Show what the host does, or take it away. */
  known(can: boolean): void {
    this.ofHost().forEach(button => (can ? button.classList.remove('nbt-waits') : button.remove()));
  }

  dispose(): void {
    clearTimeout(this.sure);
  }

  private ofHost(): Element[] {
    return Array.from(this.element.children).filter(button => button !== this.copy);
  }

  private add(name: string, title: string): HTMLButtonElement {
    return this.element.appendChild(h('button', { type: 'button', title }, name));
  }

  /** Ask, and say what comes of it; a button that may be pressed again is enabled again. */
  private async asked(
    button: HTMLButtonElement,
    ask: () => Promise<unknown>,
    again = false
  ): Promise<void> {
    button.disabled = true;
    try {
      const said = await ask();
      this.doing.say(typeof said === 'string' ? said : '');
      button.disabled = !again;
    } catch (error) {
      button.disabled = false;
      this.doing.say(error instanceof Error ? error.message : String(error));
    }
  }

  private removing(remove: () => Promise<void>): void {
    const button = this.remove!;
    clearTimeout(this.sure);
    if (!button.classList.contains('nbt-sure')) {
      button.classList.add('nbt-sure');
      say(button, 'Delete for good?');
      this.sure = window.setTimeout(() => this.unsure(), 5000);
      return;
    }
    this.unsure();
    void this.asked(button, async () => {
      await remove();
      say(button, 'Deleted');
      if (this.stop) {
        this.stop.disabled = true;
      }
    });
  }

  private unsure(): void {
    this.remove?.classList.remove('nbt-sure');
    say(this.remove!, 'Delete');
  }

  private async copied(): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.attach);
      this.doing.say(`Copied: ${this.attach}`);
    } catch {
      this.doing.say(`To copy: ${this.attach}`);
    }
  }
}
