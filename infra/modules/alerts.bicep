// The guide's failure e-mails: rules over the lines that the handler writes. Queries: ../queries.

param location string
param tags object
param workspaceName string

@description('In the names of the rules.')
param token string

var workspaceId = resourceId('Microsoft.OperationalInsights/workspaces', workspaceName)

@description('Who gets an e-mail; nobody if empty, then alerts are seen in the portal only.')
param alertEmails string[]

type Rule = {
  name: string
  title: string
  @description('What to do, in the e-mail.')
  remedy: string
  query: string
  @description('0 critical to 4 verbose.')
  severity: int
  @description('How often it looks, and how far back. An alert ends when nothing was found for that long.')
  every: string
  window: string
  @description('One alert for each value of this column.')
  by: string?
  @description('Something that happened, not a state: nobody can tell when it is over, so no alert says so.')
  once: bool?
}

var rules Rule[] = [
  {
    name: 'run-failed'
    title: 'A run failed'
    remedy: 'The error is in the alert\'s search results. `indicator-relay check` names the permission or setting to change; the job tries again at its next occurrence.'
    query: loadTextContent('../queries/run-failed.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT30M'
    by: 'job'
    once: true
  }
  {
    name: 'run-overdue'
    title: 'No complete run for twice the schedule'
    remedy: 'Look at the job\'s latest runs (`indicator-relay runs`, or the workbook). A run that fails again and again, or that needs more than a day, is the usual cause.'
    query: loadTextContent('../queries/run-overdue.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT15M'
    by: 'job'
  }
  {
    name: 'invocation-failed'
    title: 'An invocation failed'
    remedy: 'The host repeats it. If it lasts, the error names the remedy; `indicator-relay check` looks at settings, storage, vault and permissions.'
    query: loadTextContent('../queries/invocation-failed.kql')
    severity: 2
    every: 'PT5M'
    window: 'PT30M'
    by: 'function'
  }
  {
    name: 'queue-poison'
    title: 'Messages in a poison queue'
    remedy: 'Five tries failed. Mend the cause, then delete the messages: the next tick enqueues the job\'s unfinished run again.'
    query: loadTextContent('../queries/queue-poison.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT15M'
    by: 'queue'
  }
  {
    name: 'withdrawal-refused'
    title: 'A withdrawal waits for approval'
    remedy: 'More indicators vanished at once than WITHDRAW_LIMIT allows. Look whether that is right, then `indicator-relay export --approve-withdraw JOB`.'
    query: loadTextContent('../queries/withdrawal-refused.kql')
    severity: 2
    every: 'PT15M'
    window: 'P1D'
    by: 'job'
    once: true
  }
  {
    name: 'items-rejected'
    title: 'The target refused indicators'
    remedy: '`indicator-relay rejected list` shows each with its reason; `rejected retry` sends them again.'
    query: loadTextContent('../queries/items-rejected.kql')
    severity: 3
    every: 'PT15M'
    window: 'PT1H'
    by: 'job'
    once: true
  }
  {
    name: 'notification-not-kept'
    title: 'A notification could not be kept'
    remedy: 'Microsoft Graph sends it again for four hours. The error names what is wrong with the storage; `indicator-relay check` looks at it.'
    query: loadTextContent('../queries/notification-not-kept.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT30M'
    once: true
  }
  {
    name: 'notification-empty'
    title: 'Notifications come without a body'
    remedy: 'Something between Microsoft Graph and the app drops bodies: a gateway, or a host that does not proxy requests (`enableProxyingHttpRequest` in host.json). Strangers can cause single ones.'
    query: loadTextContent('../queries/notification-empty.kql')
    severity: 1
    every: 'PT15M'
    window: 'PT1H'
    once: true
  }
  {
    name: 'notification-dead'
    title: 'A notification was set aside'
    remedy: 'The reason is in the alert\'s search results. Mend it, then `indicator-relay playbooks dead list` and `playbooks dead replay`.'
    query: loadTextContent('../queries/notification-dead.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT30M'
    by: 'playbook'
    once: true
  }
  {
    name: 'poll-failed'
    title: 'Alerts could not be polled'
    remedy: 'The error names the permission or the address. The next poll begins where the last complete one did: nothing is lost.'
    query: loadTextContent('../queries/poll-failed.kql')
    severity: 2
    every: 'PT5M'
    window: 'PT30M'
    by: 'resource'
  }
  {
    name: 'subscription-expiring'
    title: 'A subscription is close to its end'
    remedy: '`indicator-relay subscriptions list` says why it could not be renewed; after its end, changes are looked up once it can be made again.'
    query: loadTextContent('../queries/subscription-expiring.kql')
    severity: 1
    every: 'PT5M'
    window: 'PT30M'
    by: 'resource'
  }
  {
    name: 'subscription-failed'
    title: 'A subscription cannot be made or renewed'
    remedy: 'The error names the permission, the setting or the address to change. It is tried again by itself.'
    query: loadTextContent('../queries/subscription-failed.kql')
    severity: 2
    every: 'PT5M'
    window: 'PT30M'
    by: 'resource'
  }
  {
    name: 'secret-expiring'
    title: 'A secret ends soon'
    remedy: 'Make a new one, and put it into the vault under the same name: it is taken over without a restart.'
    query: loadTextContent('../queries/secret-expiring.kql')
    severity: 2
    every: 'PT1H'
    window: 'P1D'
    by: 'secret'
  }
]

var toWhom = empty(alertEmails) ? [] : [people.id]

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(alertEmails)) {
  name: 'ag-${token}'
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'IndRelay'
    enabled: true
    emailReceivers: [
      for address in alertEmails: {
        name: address
        emailAddress: address
        useCommonAlertSchema: true
      }
    ]
  }
}

// The queries were checked before the deployment; in a new workspace the tables come with the first line.
resource found 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = [
  for rule in rules: {
    name: 'alert-${token}-${rule.name}'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: 'Indicator Relay: ${rule.title}'
      description: rule.remedy
      severity: rule.severity
      enabled: true
      scopes: [workspaceId]
      evaluationFrequency: rule.every
      windowSize: rule.window
      autoMitigate: !(rule.?once ?? false)
      muteActionsDuration: rule.?once ?? false ? rule.window : null
      skipQueryValidation: true
      criteria: {
        allOf: [
          {
            query: rule.query
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            dimensions: rule.?by == null ? [] : [{ name: rule.?by ?? '', operator: 'Include', values: ['*'] }]
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: toWhom }
    }
  }
]

// The one rule that fires when a line is missing.
resource silent 'Microsoft.Insights/scheduledQueryRules@2026-03-01' = {
  name: 'alert-${token}-no-sign-of-life'
  location: location
  tags: tags
  kind: 'LogAlert'
  properties: {
    displayName: 'Indicator Relay: no sign of life'
    description: 'The timer has not ticked for a quarter of an hour. Is the app stopped, or ExportIndicators disabled? If not, look at the host\'s log: a handler that does not start, or storage that refuses the identity.'
    severity: 1
    enabled: true
    scopes: [workspaceId]
    evaluationFrequency: 'PT5M'
    windowSize: 'PT15M'
    autoMitigate: true
    skipQueryValidation: true
    criteria: {
      allOf: [
        {
          query: loadTextContent('../queries/no-sign-of-life.kql')
          timeAggregation: 'Total'
          metricMeasureColumn: 'ticks'
          operator: 'LessThan'
          threshold: 1
          failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
        }
      ]
    }
    actions: { actionGroups: toWhom }
  }
}
