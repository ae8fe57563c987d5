/** The workers of a run in a row: a sign for each, and what it does for who points at it. */

import { h, say, set } from './dom';
import { RunView, Worker } from './run';

/** Above this many workers the strip shows their signs without their numbers. */
export const NUMBERED = 16;

/** Above this many workers their examples/s and memory are told by their tooltips alone. */
export const FIGURED = 4;

/** Above this many workers the strip is one picture, and no list with something to say for each. */
const LISTED = 64;

/** Where a key of the keyboard leads from a worker. */
const KEYS: Partial<Record<string, (at: number, last: number) => number>> = {
  ArrowRight: at => at + 1,
  ArrowDown: at => at + 1,
  ArrowLeft: at => at - 1,
  ArrowUp: at => at - 1,
  Home: () => 0,
  End: (_, last) => last
};

/** A list with one tab stop in it, which the arrow keys move. */
export class Strip {
  readonly element = h('span', { class: 'nbt-strip' });
  private stop = 0;

  constructor() {
    this.element.addEventListener('keydown', event => this.pressed(event));
    this.element.addEventListener('focusin', event => this.focused(event.target as Element));
    this.element.addEventListener('focusout', () => this.focused(null));
  }

  draw(view: RunView): void {
    const { workers } = view;
    const few = workers.length <= NUMBERED;
    const listed = workers.length > 0 && workers.length <= LISTED;
    this.element.classList.toggle('nbt-many', !few);
    set(this.element, 'role', listed ? 'list' : 'img');
    set(this.element, 'aria-label', `workers: ${view.crew}`);
    // The elements stay, so that a hovered one keeps its tooltip, and a focused one the focus.
    while (this.element.childElementCount > workers.length) {
      this.element.lastElementChild?.remove();
    }
    this.stop = Math.max(Math.min(this.stop, workers.length - 1), 0);
    workers.forEach((worker, index) => {
      const chip = this.element.children[index] ?? this.element.appendChild(chipOfWorker());
      drawWorker(chip, worker, few ? `${worker.sign}\u202f${index}` : worker.sign, listed);
      // Room is kept from the beginning: nothing jumps when the first figures come.
      chip.children[1].toggleAttribute('hidden', !(view.live && view.crowd <= FIGURED));
      set(chip.children[0], 'tabindex', listed && index === this.stop ? '0' : null);
    });
  }

  private pressed(event: KeyboardEvent): void {
    const signs = Array.from(this.element.children, chip => chip.firstElementChild as HTMLElement);
    const to = KEYS[event.key]?.(this.stop, signs.length - 1) ?? -1;
    if (to < 0 || to >= signs.length || event.altKey || event.ctrlKey || event.metaKey) {
      return;
    }
    event.preventDefault();
    set(signs[this.stop], 'tabindex', null);
    this.stop = to;
    set(signs[to], 'tabindex', '0');
    signs[to].focus();
  }

  /** Have JupyterLab leave the keys to a worker that was come to by them; not to a clicked one. */
  private focused(target: Element | null): void {
    const keys = Boolean(target?.matches(':focus-visible'));
    set(this.element, 'data-lm-suppress-shortcuts', keys ? 'true' : null);
  }
}

/** A worker's sign, and beside it room for its examples/s and memory. */
function chipOfWorker(): HTMLElement {
  const figures = h('span', { class: 'nbt-figures', 'aria-hidden': 'true', hidden: true });
  return h('span', {}, h('span', { class: 'nbt-sign' }), figures);
}

/** Touch only what has changed: a strip is drawn often, and may have many workers. */
function drawWorker(chip: Element, worker: Worker, sign: string, listed: boolean): void {
  const about = joined(worker.about, worker.rate, worker.memory);
  const [shown, figures] = Array.from(chip.children);
  say(shown, sign);
  say(figures, joined(worker.rate, worker.memory));
  set(chip, 'class', `nbt-worker nbt-tone-${worker.tone}`);
  set(chip, 'title', about);
  // A picture with a name: of a list's item many readers say the text alone, here "● 0".
  set(chip, 'role', listed ? 'listitem' : null);
  set(shown, 'role', listed ? 'img' : null);
  set(shown, 'aria-label', listed ? about : null);
}

export function joined(...parts: string[]): string {
  return parts.filter(Boolean).join(' · ');
}
