/** The logs of a run's workers: follow, search, download. */

import { h, say } from './dom';
import { Opened } from './left';
import { LogPiece } from './run';
import { Sight } from './sight';

/** How often a followed log is asked for, in milliseconds. */
const EVERY = 1000;

/** So many characters are kept; the download has all of it. */
const KEPT = 1_000_000;

export type ReadLog = (worker: number, offset: number) => Promise<LogPiece>;

let numbered = 0;

export class LogPanel {
  readonly element: HTMLElement;
  private readonly worker: HTMLSelectElement;
  private readonly follow: HTMLInputElement;
  private readonly search: HTMLInputElement;
  private readonly count = h('span', { class: 'nbt-count', 'aria-live': 'polite' });
  private readonly text = h('pre', {
    class: 'nbt-log',
    tabindex: 0,
    role: 'log',
    'aria-live': 'off',
    'aria-label': 'log'
  });
  private timer = 0;
  private next = -1;
  private content = '';
  private name = 'run';
  private live = true;
  private readonly sight = new Sight(() => void this.tick());
  private busy = false;

  constructor(private readonly read: ReadLog) {
    const id = `nbt-logs-${numbered++}`;
    this.worker = h('select', { id: `${id}-worker` });
    this.follow = h('input', { type: 'checkbox', id: `${id}-follow` });
    this.follow.checked = true;
    this.search = h('input', {
      type: 'search',
      placeholder: 'Search',
      'aria-label': 'Search the log'
    });
    const download = h('button', { type: 'button' }, 'Download');
    this.element = h(
      'div',
      { class: 'nbt-logs', role: 'region', 'aria-label': 'Logs', hidden: true },
      h(
        'div',
        { class: 'nbt-logbar' },
        h('label', { for: this.worker.id }, 'worker'),
        this.worker,
        this.follow,
        h('label', { for: this.follow.id }, 'follow'),
        this.search,
        this.count,
        download
      ),
      this.text
    );
    this.worker.addEventListener('change', () => this.restart());
    this.follow.addEventListener('change', () => void this.tick());
    this.search.addEventListener('input', () => this.show());
    download.addEventListener('click', () => void this.download());
    this.sight.there(true);
  }

  update(workers: number, live: boolean): void {
    this.live = live;
    while (this.worker.options.length < workers) {
      this.worker.add(new Option(String(this.worker.options.length)));
    }
  }

  /** Open or close; tells which. */
  toggle(open: boolean | undefined, name: string): boolean {
    this.name = name;
    this.element.hidden = open === undefined ? !this.element.hidden : !open;
    if (this.element.hidden) {
      clearTimeout(this.timer);
    } else if (this.next < 0) {
      this.restart();
    } else {
      void this.tick();
    }
    return !this.element.hidden;
  }

  /** What a person has chosen here; null while it is closed. */
  get chosen(): Opened['logs'] {
    const { selectedIndex: worker } = this.worker;
    const [follow, search] = [this.follow.checked, this.search.value];
    return this.element.hidden ? null : { worker, follow, search };
  }

  choose({ worker, follow, search }: NonNullable<Opened['logs']>): void {
    this.worker.selectedIndex = worker;
    this.follow.checked = follow;
    this.search.value = search;
  }

  seen(seen: boolean): void {
    this.sight.there(seen);
  }

  dispose(): void {
    this.element.hidden = true;
    this.sight.dispose();
    clearTimeout(this.timer);
  }

  private restart(): void {
    this.next = -1;
    this.content = '';
    this.show();
    void this.tick();
  }

  private async tick(): Promise<void> {
    clearTimeout(this.timer);
    if (this.busy || !this.isOpen()) {
      return;
    }
    if (this.follow.checked || this.next < 0) {
      this.busy = true;
      let again = true;
      while (again) {
        again = await this.more();
      }
      this.busy = false;
    }
    if (this.live && this.follow.checked && this.isOpen()) {
      this.timer = window.setTimeout(() => void this.tick(), EVERY);
    }
  }

  private isOpen(): boolean {
    return this.sight.seen && !this.element.hidden;
  }

  /** Read what is new; tells whether another worker was chosen meanwhile. */
  private async more(): Promise<boolean> {
    const worker = this.worker.selectedIndex;
    try {
      for (let full = true; full;) {
        const piece = await this.read(Math.max(worker, 0), this.next);
        if (worker !== this.worker.selectedIndex) {
          return true;
        }
        full = piece.full;
        if (piece.text) {
          this.content = (this.content + piece.text).slice(-KEPT);
        }
        this.next = piece.next;
      }
      this.show();
    } catch (error) {
      say(this.count, error instanceof Error ? error.message : String(error));
    }
    return false;
  }

  private show(): void {
    const sought = this.search.value.toLowerCase();
    const lines = shown(this.content).split('\n');
    const found = sought ? lines.filter(line => line.toLowerCase().includes(sought)) : lines;
    const text = found.join('\n');
    say(this.count, sought ? `${found.length} line${found.length === 1 ? '' : 's'}` : '');
    const empty = this.next < 0 ? '' : sought ? '' : this.live ? '(nothing yet)' : '(nothing)';
    const atEnd = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 4;
    say(this.text, text || empty);
    if (this.follow.checked && atEnd) {
      this.text.scrollTop = this.text.scrollHeight;
    }
  }

  private async download(): Promise<void> {
    const worker = Math.max(this.worker.selectedIndex, 0);
    const parts: string[] = [];
    for (let offset = 0, full = true; full;) {
      const piece = await this.read(worker, offset);
      parts.push(piece.text);
      [offset, full] = [piece.next, piece.full];
    }
    const url = URL.createObjectURL(new Blob(parts, { type: 'text/plain' }));
    h('a', { href: url, download: `${this.name}-worker-${worker}.log` }).click();
    URL.revokeObjectURL(url);
  }
}

/** A log as a terminal would show it: no colours, and of a rewritten line its last state. */
export function shown(text: string): string {
  return text
    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]/g, '')
    .replace(/\r\n/g, '\n')
    .replace(/[^\n]*\r(?=[^\n])/g, '');
}
