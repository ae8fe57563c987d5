/** JupyterLab's plugins: this file connects what the others make. */

import {
  ILabShell,
  ILayoutRestorer,
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  ICommandPalette,
  IThemeManager,
  MainAreaWidget,
  Notification,
  WidgetTracker
} from '@jupyterlab/apputils';
import { IDocumentManager } from '@jupyterlab/docmanager';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { addCommands, CATEGORY, CommandIDs, OF_A_RUN } from './commands';
import { runsIcon, runsImage } from './icon';
import { labServer } from './jupyter';
import { OF_ROW } from './meant';
import { RunsModel } from './model';
import { Changes, RunSummary } from './run';
import { Sidebar } from './sidebar';
import { RunningItem } from './status';
import { Page, RunTab } from './tab';
import { isInView } from './view';

const ID = 'nbtrain:runs';

const plugin: JupyterFrontEndPlugin<void> = {
  id: ID,
  description: 'Training runs of nbtrain: sidebar, tabs, commands, status, notifications.',
  autoStart: true,
  optional: [
    ILabShell,
    ILayoutRestorer,
    ICommandPalette,
    IDocumentManager,
    ILauncher,
    INotebookTracker,
    ISettingRegistry,
    IStatusBar,
    IThemeManager
  ],
  activate: (
    app: JupyterFrontEnd,
    labShell: ILabShell | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    documents: IDocumentManager | null,
    launcher: ILauncher | null,
    notebooks: INotebookTracker | null,
    registry: ISettingRegistry | null,
    statusBar: IStatusBar | null
  ) => {
    const server = labServer(app.serviceManager.serverSettings);
    const model = new RunsModel((signal, take) =>
      server.follow(null, signal, data => take(data as Changes))
    );
    const tabs = new WidgetTracker<MainAreaWidget<RunTab>>({ namespace: 'nbtrain' });

    const open = (id: string, page?: Page): void => {
      let tab = tabs.find(widget => widget.content.run === id);
      if (!tab) {
        const content = new RunTab(id, server);
        content.title.label = model.get(id)?.name ?? 'run';
        content.title.icon = runsIcon;
        tab = new MainAreaWidget({ content });
        tab.toolbar.hide(); // it has nothing in it
        tab.id = `nbtrain-run-${id}`;
        tab.title.closable = true;
        content.disposed.connect(() => tab?.dispose());
        void tabs.add(tab);
        app.shell.add(tab, 'main');
      }
      if (page) {
        tab.content.show_(page);
      }
      app.shell.activateById(tab.id);
    };

    const current = (): string | undefined =>
      tabs.find(tab => tab === app.shell.currentWidget)?.content.run;

    const sidebar = new Sidebar(model, open);
    sidebar.id = 'nbtrain-runs';
    sidebar.title.icon = runsIcon;
    sidebar.title.caption = 'Training runs';
    app.shell.add(sidebar, 'left', { rank: 350, type: 'Training runs' });
    restorer?.add(sidebar, sidebar.id);
    const showSidebar = (): void => app.shell.activateById(sidebar.id);
    labShell?.layoutModified.connect(() => sidebar.refresh());

    addCommands({ app, model, server, open, current, showSidebar, notebooks, documents });
    void restorer?.restore(tabs, {
      command: CommandIDs.open,
      args: tab => ({ run: tab.content.run }),
      name: tab => tab.content.run,
      when: first(model)
    });
    OF_A_RUN.forEach((command, rank) =>
      app.contextMenu.addItem({ command, args: OF_ROW, selector: '.nbt-run', rank })
    );
    const inPalette = [CommandIDs.sidebar, CommandIDs.example, ...OF_A_RUN];
    inPalette.forEach(command =>
      palette?.addItem({ command, category: CATEGORY, args: { isPalette: true } })
    );
    const card = { category: 'Notebook', rank: 10, kernelIconUrl: runsImage };
    launcher?.add({ command: CommandIDs.example, ...card });

    const item = new RunningItem(model, showSidebar);
    statusBar?.registerStatusItem(`${ID}-status`, {
      item,
      align: 'left',
      rank: 10,
      isActive: () => item.wanted,
      activeStateChanged: item.stateChanged
    });

    let notify = true;
    model.ended.connect((_, run) => {
      if (notify && !isInView(run.id)) {
        tell(run, () => open(run.id));
      }
    });
    void registry?.load(ID).then(settings => {
      const read = (): void => {
        notify = settings.get('notify').composite as boolean;
        item.enabled = settings.get('statusBar').composite as boolean;
        sidebar.most = settings.get('finished').composite as number;
        sidebar.refresh();
      };
      settings.changed.connect(read);
      read();
    });
    void model.start();
  }
};

/** Resolve when the model knows which runs there are. */
function first(model: RunsModel): Promise<void> {
  return new Promise(resolve => {
    const look = (): void => {
      if (model.ready) {
        model.changed.disconnect(look);
        resolve();
      }
    };
    model.changed.connect(look);
  });
}

function tell(run: RunSummary, open: () => void): void {
  const said = [`${run.name}: ${run.doing}`, ...run.rest, run.metric].filter(Boolean).join(', ');
  const type = run.tone === 'bad' ? 'error' : run.status === 'succeeded' ? 'success' : 'info';
  Notification.emit(said, type, {
    autoClose: 10_000,
    actions: [{ label: 'Open', callback: open }]
  });
}

export default plugin;
