// Lets a principal upload to the workspace of Microsoft Sentinel, which may lie in another resource group or subscription.
import { roles } from 'roles.bicep'

param workspaceName string

@description('Object id of the identity, or of the app registration\'s service principal.')
param principalId string

resource workspace 'Microsoft.OperationalInsights/workspaces@2025-02-01' existing = {
  name: workspaceName
}

resource assignment 'Microsoft.Authorization/roleAssignments@2022-04-01' = {
  name: guid(workspace.id, principalId, roles.sentinelContributor)
  scope: workspace
  properties: {
    principalId: principalId
    principalType: 'ServicePrincipal'
    roleDefinitionId: subscriptionResourceId('Microsoft.Authorization/roleDefinitions', roles.sentinelContributor)
  }
}
