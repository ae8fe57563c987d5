/** What can be done with runs: for the palette, context menus, shortcuts. */

import { JupyterFrontEnd } from '@jupyterlab/application';
import { Dialog, Notification, showDialog, showErrorMessage } from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { INotebookTracker, NotebookActions } from '@jupyterlab/notebook';
import { ReadonlyPartialJSONObject } from '@lumino/coreutils';
import { EXAMPLE } from './example';
import { runsIcon } from './icon';
import { meant } from './meant';
import { RunsModel } from './model';
import { RunSummary } from './run';
import { Server } from './server';
import { Page } from './tab';

export const CATEGORY = 'Training runs';

export namespace CommandIDs {
  export const open = 'nbtrain:open';
  export const logs = 'nbtrain:open-logs';
  export const stop = 'nbtrain:stop';
  export const remove = 'nbtrain:delete';
  export const attach = 'nbtrain:attach';
  export const copy = 'nbtrain:copy-name';
  export const download = 'nbtrain:download-model';
  export const exported = 'nbtrain:export-yaml';
  export const sidebar = 'nbtrain:show-runs';
  export const example = 'nbtrain:example';
}

/** Those that are about one run, in the order of the menus. */
export const OF_A_RUN = [
  CommandIDs.open,
  CommandIDs.logs,
  CommandIDs.attach,
  CommandIDs.copy,
  CommandIDs.download,
  CommandIDs.exported,
  CommandIDs.stop,
  CommandIDs.remove
];

interface Given {
  app: JupyterFrontEnd;
  model: RunsModel;
  server: Server;
  open(id: string, page?: Page): void;
  /** The run of the tab that is in front, if it is one. */
  current(): string | undefined;
  showSidebar(): void;
  notebooks: INotebookTracker | null;
  documents: IDocumentManager | null;
}

type Do = (run: RunSummary) => unknown;

export function addCommands(given: Given): void {
  const { app, model, server, notebooks, documents } = given;
  const commands = app.commands;

  const places = {
    row: () => app.contextMenuHitTest(node => node.dataset.run !== undefined)?.dataset.run,
    tab: given.current
  };
  const of = (args: ReadonlyPartialJSONObject): RunSummary | undefined =>
    meant(args, model, places);
  const add = (
    id: string,
    label: string,
    act: Do,
    isEnabled: (run: RunSummary) => boolean = () => true
  ): void => {
    commands.addCommand(id, {
      label: args => {
        const run = args['isPalette'] ? of(args) : undefined;
        return run ? `${label}: ${run.name}` : label;
      },
      describedBy: {
        args: { type: 'object', properties: { run: { type: 'string', description: "A run's id" } } }
      },
      isEnabled: args => {
        const run = of(args);
        return run !== undefined && isEnabled(run);
      },
      execute: async args => {
        const run = of(args);
        try {
          await (run && act(run));
        } catch (error) {
          void showErrorMessage(label, error as Error);
        }
      }
    });
  };

  add(CommandIDs.open, 'Open run', run => given.open(run.id));
  add(CommandIDs.logs, 'Open logs', run => given.open(run.id, 'Logs'));
  add(CommandIDs.stop, 'Stop', run => server.stop(run.id), run => run.live); // prettier-ignore
  add(CommandIDs.remove, 'Delete…', run => remove(run, server));
  add(CommandIDs.copy, 'Copy name', run => navigator.clipboard.writeText(run.name));
  add(
    CommandIDs.attach,
    'Attach in notebook',
    run => attach(run, notebooks!),
    () => Boolean(notebooks?.currentWidget)
  );
  add(
    CommandIDs.download,
    'Download model',
    run => download(run, server),
    run => run.status === 'succeeded' || run.status === 'stopped'
  );
  add(
    CommandIDs.exported,
    'Export YAML',
    async run => {
      const yaml = new Blob([await server.exported(run.id)], { type: 'application/yaml' });
      const url = URL.createObjectURL(yaml);
      save(url, `${run.name}.yaml`);
      URL.revokeObjectURL(url);
    },
    run => run.backend === 'kubernetes'
  );
  commands.addCommand(CommandIDs.sidebar, {
    label: 'Show training runs',
    icon: runsIcon,
    execute: () => given.showSidebar()
  });
  if (documents) {
    commands.addCommand(CommandIDs.example, {
      label: args => (args['isPalette'] ? 'New example notebook' : 'Distributed training'),
      caption: 'Open an example notebook that trains on two workers',
      icon: runsIcon,
      execute: args => openExample((args['cwd'] as string | undefined) ?? '', documents)
    });
  }
}

async function remove(run: RunSummary, server: Server): Promise<void> {
  const live = run.live ? ' It is running, and will be killed.' : '';
  const result = await showDialog({
    title: `Delete ${run.name}?`,
    body: `The run and all its files (model, logs, checkpoints) will be removed.${live}`,
    buttons: [Dialog.cancelButton(), Dialog.warnButton({ label: 'Delete' })]
  });
  if (result.button.accept) {
    await server.remove(run.id);
  }
}

function attach(run: RunSummary, notebooks: INotebookTracker): void {
  const panel = notebooks.currentWidget!;
  NotebookActions.insertBelow(panel.content);
  const cell = panel.content.activeCell!.model.sharedModel;
  const id = JSON.stringify(run.id);
  cell.setSource(`import nbtrain\n${run.name} = nbtrain.attach(${id})\n${run.name}`);
  panel.content.mode = 'edit';
  panel.content.activate();
}

async function download(run: RunSummary, server: Server): Promise<void> {
  const model = (await server.files(run.id)).find(file => file.path.endsWith('model.keras'));
  if (!model) {
    const why = `${run.name} has no model.keras: its model is of Keras 2, or not saved.`;
    Notification.warning(why, { autoClose: 10_000 }); // without, nothing pops up
    return;
  }
  save(server.fileUrl(run.id, model.path), `${run.name}.keras`);
}

function save(url: string, name: string): void {
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
}

async function openExample(folder: string, documents: IDocumentManager): Promise<void> {
  const contents = documents.services.contents;
  const file = await contents.newUntitled({ path: folder, type: 'notebook' });
  await contents.save(file.path, { type: 'notebook', format: 'json', content: EXAMPLE });
  documents.openOrReveal(file.path);
}
