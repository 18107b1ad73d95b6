// The workbook: runs, outcomes, rejections, durations and problems per job. Queries: ../queries.

param location string
param tags object
param workspaceName string

var workspaceId = resourceId('Microsoft.OperationalInsights/workspaces', workspaceName)

var parts = [
  { name: 'problems', title: 'Problems', shown: 'table', query: loadTextContent('../queries/workbook-problems.kql') }
  { name: 'runs', title: 'Latest runs', shown: 'table', query: loadTextContent('../queries/workbook-runs.kql') }
  {
    name: 'outcomes'
    title: 'Outcomes per hour'
    shown: 'timechart'
    query: loadTextContent('../queries/workbook-outcomes.kql')
  }
  {
    name: 'rejections'
    title: 'Refused for the first time, per hour'
    shown: 'barchart'
    query: loadTextContent('../queries/workbook-rejections.kql')
  }
  {
    name: 'durations'
    title: 'Durations in seconds'
    shown: 'table'
    query: loadTextContent('../queries/workbook-durations.kql')
  }
]

var timeRange = {
  type: 9
  name: 'time'
  content: {
    version: 'KqlParameterItem/1.0'
    queryType: 0
    resourceType: 'microsoft.operationalinsights/workspaces'
    parameters: [
      {
        id: guid('indicator-relay', 'TimeRange')
        version: 'KqlParameterItem/1.0'
        name: 'TimeRange'
        label: 'Time'
        type: 4
        isRequired: true
        value: { durationMs: 86400000 }
        typeSettings: {
          selectableValues: [
            { durationMs: 3600000 }
            { durationMs: 86400000 }
            { durationMs: 604800000 }
            { durationMs: 2592000000 }
          ]
          allowCustom: true
        }
      }
    ]
  }
}

var charts = map(parts, part => {
  type: 3
  name: part.name
  content: {
    version: 'KqlItem/1.0'
    query: part.query
    title: part.title
    size: 0
    queryType: 0
    resourceType: 'microsoft.operationalinsights/workspaces'
    crossComponentResources: [workspaceId]
    timeContextFromParameter: 'TimeRange'
    visualization: part.shown
    showExportToExcel: true
  }
})

resource workbook 'Microsoft.Insights/workbooks@2023-06-01' = {
  name: guid(resourceGroup().id, workspaceName)
  location: location
  tags: tags
  kind: 'shared'
  properties: {
    displayName: 'Indicator Relay'
    category: 'workbook'
    sourceId: workspaceId
    version: 'Notebook/1.0'
    serializedData: string({
      version: 'Notebook/1.0'
      items: concat([timeRange], charts)
      fallbackResourceIds: [workspaceId]
      '$schema': 'https://github.com/Microsoft/Application-Insights-Workbooks/blob/master/schema/workbook.json'
    })
  }
}
