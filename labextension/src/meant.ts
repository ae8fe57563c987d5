/** Which run a command is about. */

import { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { RunsModel } from './model';
import { RunSummary } from './run';

/** What a context menu gives to a command: the run is that of the row it was opened on. */
export const OF_ROW = { isContextMenu: true };

export interface Places {
  /** The run of the row that was clicked last, if it was one. */
  row(): string | undefined;
  /** The run of the tab that is in front, if it is one. */
  tab(): string | undefined;
}

/** Find a run by its id, by its row, by its tab, or take the newest that runs or has run. */
export function meant(
  args: ReadonlyPartialJSONObject,
  model: RunsModel,
  places: Places
): RunSummary | undefined {
  // The row stays known long after its menu: it is of no account for the palette and for keys.
  const clicked = args['isContextMenu'] ? places.row() : undefined;
  const id = (args['run'] as string | undefined) ?? clicked;
  if (id) {
    return model.get(id);
  }
  const inFront = model.get(places.tab() ?? '');
  return [inFront, ...model.running, ...model.finished].find(run => run !== undefined);
}
