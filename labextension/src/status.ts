/** The status bar's item: how many runs there are running. */

import { ISignal, Signal } from '@lumino/signaling';
import { Widget } from '@lumino/widgets';
import { h, say } from './dom';
import { RunsModel } from './model';

export class RunningItem extends Widget {
  private readonly button: HTMLButtonElement;
  private readonly change = new Signal<this, void>(this);
  private isEnabled = true;

  constructor(
    private readonly model: RunsModel,
    showRuns: () => void
  ) {
    super();
    this.addClass('nbt-status');
    this.button = this.node.appendChild(
      h('button', { type: 'button', title: 'Show training runs' })
    );
    this.button.addEventListener('click', showRuns);
    model.changed.connect(this.refresh, this);
  }

  /** Whether it is to be seen: only while something runs. */
  get wanted(): boolean {
    return this.isEnabled && this.model.running.length > 0;
  }

  get stateChanged(): ISignal<this, void> {
    return this.change;
  }

  set enabled(value: boolean) {
    this.isEnabled = value;
    this.refresh();
  }

  private refresh(): void {
    const count = this.model.running.length;
    say(this.button, `${count} run${count === 1 ? '' : 's'} training`);
    this.change.emit();
  }
}
